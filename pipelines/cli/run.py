"""Commands that run a recipe: run, resume."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cluster.run.result import RunOptions, RunResult
from cluster.run.signals import exit_code
from cluster.steps.step import Step
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views import key_diff, progress_display
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import errors
from pipelines.dag import fewshot
from pipelines.run import runner
from pipelines.run.request import RunRequest, load_request
from pipelines.run.runner import tracking_server


def run(
    recipe: options.Recipe,
    override: options.Override = None,
    from_: options.From = None,
    until: options.Until = None,
    only: options.Only = None,
    force: options.Force = None,
    keep_going: options.KeepGoing = False,
    max_parallel: options.MaxParallel = None,
    verify: options.Verify = False,
    register: options.Register = True,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a recipe. Committed steps are taken from the store, the rest are run."""

    options = RunOptions(
        from_=tuple(from_ or ()),
        until=tuple(until or ()),
        only=tuple(only or ()),
        force=tuple(force or ()),
        verify=verify,
        keep_going=keep_going,
        max_parallel=max_parallel,
        address=address,
    )
    shown = progress_display.select_output_mode(as_json=as_json, is_quiet=quiet)
    asked = load_request(recipe, override, store)
    outcome = runner.run_recipe(
        asked, options, shown.console, progress=preflight_progress, show=shown.events, register=register
    )
    _print_summary(asked, options, fewshot.build_steps(asked.config), outcome, shown.console, register)
    code = exit_code(outcome.signal) if outcome.is_interrupted else 0 if outcome.ok else 1
    shown.finish(outcome, code)
    if code:
        raise typer.Exit(code)


MAX_ERRORS = 3
"""Failed steps whose traces are shown; one mistake often fails them all."""


def _print_summary(
    asked: RunRequest, options: RunOptions, steps: list[Step], outcome: RunResult, console: Console, register: bool
) -> None:
    """Last words: what failed and how to go on, or where to look."""
    if console.quiet and not outcome.ok:
        console = errors
    shown = list(outcome.errors.items())[:MAX_ERRORS]
    for name, error in shown:
        console.print(f"\nstep {escape(name)} failed", style="bold red")
        console.print(escape(error.tail()), highlight=False, soft_wrap=True)
        console.print(f"log     {escape(error.log)}", highlight=False, soft_wrap=True)
    if len(outcome.errors) > len(shown):
        console.print(f"and {len(outcome.errors) - len(shown)} more: clozeline status {asked.recipe}", style="red")
    if not outcome.ok:
        again = key_diff.resume_command(
            asked.recipe, asked.overrides, asked.store.url, options, steps, outcome, register
        )
        console.print(f"resume  {escape(again)}", highlight=False, soft_wrap=True)
    console.print(
        f"{len(outcome.executed)} steps executed, {len(outcome.cached)} from the store, {outcome.wall_s:.0f} s. "
        f"Browse the runs: {tracking_server() or f'make ui STORE={shlex.quote(str(asked.store.local))}'}",
        highlight=False,
        soft_wrap=True,
    )


def resume(
    recipe: options.Recipe,
    steps: Annotated[list[str] | None, typer.Argument(help="Go on from these steps only: distill, pet/*.")] = None,
    override: options.Override = None,
    keep_going: options.KeepGoing = False,
    max_parallel: options.MaxParallel = None,
    register: options.Register = True,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Go on with a run that failed or was stopped: the same as `run`, with `--from` for the steps named."""
    run(
        recipe,
        override,
        from_=steps,
        keep_going=keep_going,
        max_parallel=max_parallel,
        register=register,
        store=store,
        address=address,
        as_json=as_json,
        quiet=quiet,
    )
