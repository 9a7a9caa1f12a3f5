"""Commands that maintain the store: accept, gc, sync."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from cluster.steps.accept import accept as accept_results
from cluster.store.garbage import collect_garbage, find_garbage
from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.tracking.sync import fetch_waiting, hand_over_waiting, send_waiting
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.terminal import console
from pipelines.dag.fewshot import plan_recipe
from pipelines.run import status
from pipelines.run.request import load_request
from stages.common.errors import InputError


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
    recipes: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="A recipe whose results are no longer needed; may be repeated.", metavar="RECIPE"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Remove results that no recipe needs any more. Every run enters its recipe into the store."""
    if recipes:
        raise InputError(
            f"gc takes no recipes as arguments ({', '.join(recipes)}): it keeps the results of all that have run.",
            f"Name those that are no longer needed: clozeline gc {' '.join(f'--drop {name}' for name in recipes)}.",
        )
    opened = open_store(store)
    found = find_garbage(opened, drop or ())
    if found.removable or found.running or found.read:
        console.print(status.garbage_table(found))
    total = status.format_size(sum(item.num_bytes for item in found.removable))
    if dry_run:
        console.print(f"{len(found.removable)} results would be removed, {total}", highlight=False)
        return
    if not yes and (found.removable or drop):
        if not sys.stdin.isatty():
            raise InputError("gc requires a confirmation, but there is no terminal.", "Add --yes.")
        typer.confirm(f"Remove {len(found.removable)} results, {total}?", abort=True)
    removed = collect_garbage(opened, drop or ()).removable
    total = status.format_size(sum(item.num_bytes for item in removed))
    console.print(f"{len(removed)} results removed, {total}", highlight=False)


def sync(store: options.StoreFolder = DEFAULT_STORE) -> None:
    """Send MLflow what earlier runs recorded while it did not answer."""
    opened = open_store(store)
    with Leases() as leases:
        fetch_waiting(opened, leases)
    refused: list[str] = []
    sent = []
    for item in send_waiting(opened.local, refused.append):
        sent.append(item)
        if item.num_left:
            text = f"waiting   {item.num_left} records of {item.run} for MLflow at {item.address}: {item.problem}"
        else:
            text = f"sent      {item.num_sent} records of {item.run} to MLflow at {item.address}"
        console.print(escape(text), highlight=False, soft_wrap=True)
    hand_over_waiting(opened)
    for problem in refused:
        console.print(f"warning   {escape(problem)}", style="yellow", highlight=False, soft_wrap=True)
    if not sent:
        console.print("MLflow has all records of this store.")
    if any(item.num_left for item in sent):
        raise typer.Exit(1)
