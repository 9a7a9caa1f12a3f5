"""Commands that maintain the store and the machine: gc, doctor."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from cluster.store.garbage import collect_garbage, find_retained
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.terminal import console
from pipelines.preflight.doctor import run_checks
from pipelines.run import status
from pipelines.run.request import load_request


def gc(
    recipes: Annotated[list[str], typer.Argument(help="All recipes whose results are to stay.", metavar="RECIPE...")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Remove results of the recipes' steps that none of them reaches any more."""

    opened, found = status.stale_results(recipes, override, store)
    kept = find_retained(found) if dry_run else collect_garbage(opened, found)
    removed = [item for item in found if item not in kept]
    if found:
        console.print(status.stale_table(found, kept))
    total = status.format_size(sum(item.num_bytes for item in removed))
    console.print(f"{len(removed)} results{' would be' if dry_run else ''} removed, {total}", highlight=False)


def doctor(recipe: options.Recipe = "demo", override: options.Override = None) -> None:
    """Examine versions, processors, disk, network and assets: what is missing and how to get it."""

    asked = load_request(recipe, override, DEFAULT_STORE)
    fatal = False
    for finding in run_checks(asked.config.assets):
        mark = "[red]bad [/]" if finding.fatal else "[yellow]note[/]" if finding.remedy else "[green]good[/]"
        text = f"{finding.what}: {finding.found}" + (f". {finding.remedy}" if finding.remedy else "")
        console.print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
        fatal |= finding.fatal
    if fatal:
        raise typer.Exit(1)
