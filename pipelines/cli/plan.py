"""Commands that read a recipe and its store and run nothing: plan, status, explain, graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.errors import SessionError
from cluster.steps.code_changes import find_code_changes
from cluster.steps.plan import Plan, PlanState, Selection
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views import plan_view
from pipelines.cli.views.terminal import console, errors
from pipelines.dag import fewshot
from pipelines.dag.fewshot import plan_recipe
from pipelines.preflight import memory
from pipelines.preflight.checks import newer_assets
from pipelines.preflight.resources import block_impossible, known_capacity
from pipelines.report.page.graph import mermaid
from pipelines.run.request import RunRequest, check_cached, load_request
from pipelines.run.status import step_states


def explain(
    recipe: options.Recipe,
    steps: Annotated[list[str], typer.Argument(help="Steps, or globs.", metavar="STEP...")],
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Show why a step runs: its cache key compared with the nearest committed one."""
    request = load_request(recipe, override, store)
    planned = plan_recipe(request.config, request.store)
    for explanation in plan_view.explain_steps(planned, request.store, steps):
        plan_view.print_explanation(explanation, console)


def plan(
    recipe: options.Recipe,
    override: options.Override = None,
    from_: options.From = None,
    until: options.Until = None,
    only: options.Only = None,
    force: options.Force = None,
    verify: options.Verify = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look for newer contents of URLs and hub references without a pin.")
    ] = False,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
) -> None:
    """Show what a run would do, and why. Runs nothing and fetches nothing.

    Checks the recipe with the files that are here, as a run does: columns, labels, and numbers of examples. Steps are
    BLOCKED that request more CPUs or GPUs than this machine or the Ray cluster has.
    """
    request = load_request(recipe, override, store)
    selection = Selection(
        from_=tuple(from_ or ()),
        until=tuple(until or ()),
        only=tuple(only or ()),
        force=tuple(force or ()),
        verify=verify,
    )
    checked = check_cached(request)
    planned = plan_recipe(request.config, request.store, selection)
    steps = list(planned.steps.values())
    budget = memory.local_budget(steps, address)
    console.print(plan_view.plan_table(_scheduled(planned, request, address), memory.memory_rows(steps, budget)))
    console.print(memory.budget_summary(budget), style="dim", highlight=False)
    for warning in checked.warnings:
        console.print(f"warning: {escape(warning)}", style="yellow", highlight=False, soft_wrap=True)
    for text in newer_assets(request.config) if refresh else ():
        console.print(f"newer: {escape(text)}", style="yellow", highlight=False, soft_wrap=True)
    if (changes := find_code_changes(planned, request.store)) is not None:
        for text in plan_view.code_change_lines(changes, recipe):
            console.print(escape(text), style="yellow", highlight=False, soft_wrap=True)
    for key, ref in checked.not_fetched.items():
        name = escape(ref.partition("#")[0])
        console.print(f"not fetched: {key}, {name}", style="dim", highlight=False, soft_wrap=True)


def _scheduled(planned: Plan, request: RunRequest, address: str | None) -> Plan:
    """Returns the plan in which steps are BLOCKED that no machine can run, if the machines are known."""
    try:
        capacity = known_capacity((line.step for line in planned if line.state is PlanState.RUN), address)
    except SessionError as error:
        console.print(f"warning: {escape(str(error))}", style="yellow", highlight=False, soft_wrap=True)
        return planned
    return planned if capacity is None else block_impossible(planned, capacity)


def status(
    recipe: options.Recipe, override: options.Override = None, store: options.StoreFolder = DEFAULT_STORE
) -> None:
    """Show which steps are committed, running or failed."""
    table = Table(box=None, pad_edge=False)
    for column in ("state", "step", "details"):
        table.add_column(column, overflow="fold", no_wrap=column == "step")
    styles = {"committed": "green", "running": "cyan", "failed": "red"}
    for row in step_states(load_request(recipe, override, store)):
        table.add_row(row["state"], row["step"], escape(row["details"]), style=styles.get(row["state"]))
    console.print(table)


def graph(
    recipe: options.Recipe,
    override: options.Override = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write a PNG image instead.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write an SVG image instead.")] = None,
) -> None:
    """Print the graph of a recipe as Mermaid text, or draw it."""
    from pipelines.report.page.graph_plot import plot_graph  # noqa: PLC0415  (loads matplotlib)

    steps = fewshot.build_steps(load_request(recipe, override, DEFAULT_STORE).config)
    if png is None and svg is None:
        typer.echo(mermaid(steps), nl=False)
        return
    for path in filter(None, (png, svg)):
        plot_graph(steps).savefig(path, dpi=120, format=path.suffix.removeprefix(".") or None)
        errors.print(f"wrote     {path}", highlight=False)
