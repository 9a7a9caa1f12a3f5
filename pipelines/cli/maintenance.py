"""Commands that maintain the store: accept, gc."""

from __future__ import annotations

import getpass
import os
from typing import Annotated

import typer
from rich.markup import escape

from cluster.steps.accept import accept as accept_results
from cluster.store.base import collect_garbage, find_retained
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.terminal import console
from pipelines.dag.fewshot import plan_recipe
from pipelines.run import status
from pipelines.run.request import load_request


def accept(
    recipe: options.Recipe,
    steps: Annotated[list[str], typer.Argument(help="Steps, or globs.", metavar="STEP...")],
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Keep results although code or library versions changed, if the change does not affect them.

    Steps downstream that differ only through these are kept too. Nothing runs.
    """
    request = load_request(recipe, override, store)
    planned = plan_recipe(request.config, request.store)
    user = f"{getpass.getuser()}@{os.uname().nodename}"
    for kept in accept_results(planned, request.store, steps, user):
        changes = "; ".join(kept.changes) if kept.is_named else "downstream"
        console.print(f"accepted  {kept.manifest.step}  {escape(changes)}", highlight=False, soft_wrap=True)


def gc(
    recipes: Annotated[list[str], typer.Argument(help="All recipes whose results to keep.", metavar="RECIPE...")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Remove results of the steps of these recipes that none of the recipes reaches."""
    opened, stale = status.stale_results(recipes, override, store)
    kept = find_retained(stale) if dry_run else collect_garbage(opened, stale)
    removed = [item for item in stale if item not in kept]
    if stale:
        console.print(status.stale_table(stale, kept))
    total = status.format_size(sum(item.num_bytes for item in removed))
    console.print(f"{len(removed)} results{' would be' if dry_run else ''} removed, {total}", highlight=False)
