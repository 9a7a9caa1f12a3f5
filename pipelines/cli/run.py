"""Commands that run a recipe: run, resume."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cluster.run.result import RunOptions, RunResult
from cluster.run.signals import exit_code
from cluster.run.speculation import Speculation
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views import plan_view
from pipelines.cli.views.progress_display import select_output_mode
from pipelines.cli.views.terminal import errors
from pipelines.dag import fewshot
from pipelines.kinds import KINDS
from pipelines.run.request import RunRequest, load_request
from pipelines.run.runner import run_recipe, tracking_server
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.engine import ENGINE

MAX_ERRORS = 3
"""Failed steps whose tracebacks are shown. One mistake often fails all of them."""


def run(
    recipe: options.Recipe,
    override: options.Override = None,
    from_: options.From = None,
    until: options.Until = None,
    only: options.Only = None,
    force: options.Force = None,
    keep_going: options.KeepGoing = False,
    max_parallel: options.MaxParallel = None,
    speculate: options.Speculate = None,
    verify: options.Verify = False,
    register: options.Register = True,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a recipe. Committed steps are read from the store."""
    run_options = RunOptions(
        engine=ENGINE,
        identify=IDENTIFY,
        locate=LOCATE,
        from_=tuple(from_ or ()),
        until=tuple(until or ()),
        only=tuple(only or ()),
        force=tuple(force or ()),
        verify=verify,
        keep_going=keep_going,
        max_parallel=max_parallel,
        address=address,
        speculation=_speculation(speculate),
    )
    output = select_output_mode(as_json=as_json, is_quiet=quiet)
    request = load_request(recipe, override, store)
    result = run_recipe(request, run_options, output, register=register)
    console = errors if quiet and not result.ok else output.console
    _print_errors(request, result, console)
    if not result.ok:
        steps = fewshot.build_steps(request.config)
        command = plan_view.resume_command(
            request.recipe, request.overrides, request.store.url, run_options, steps, result, register
        )
        _print_line(console, "resume", command)
    num_steps = f"{len(result.executed)} steps executed, {len(result.cached)} cached"
    if result.num_attempts > len(result.executed) + len(result.failed):
        num_steps += f", {result.num_attempts} attempts"
    _print_line(console, "total", f"{num_steps}, {result.wall_s:.0f} s")
    _print_line(console, "browse", tracking_server() or f"make ui STORE={shlex.quote(str(request.store.local))}")
    code = exit_code(result.signal) if result.is_interrupted else 0 if result.ok else 1
    output.finish(result, code)
    if code:
        raise typer.Exit(code)


def resume(
    recipe: options.Recipe,
    steps: Annotated[
        list[str] | None, typer.Argument(help="Run only these steps and all downstream steps: distill, pet/*.")
    ] = None,
    override: options.Override = None,
    keep_going: options.KeepGoing = False,
    max_parallel: options.MaxParallel = None,
    speculate: options.Speculate = None,
    register: options.Register = True,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Resume a run that failed or was stopped: `run`, with `--from` for the given steps."""
    run(
        recipe,
        override,
        from_=steps,
        keep_going=keep_going,
        max_parallel=max_parallel,
        speculate=speculate,
        register=register,
        store=store,
        address=address,
        as_json=as_json,
        quiet=quiet,
    )


def _speculation(factor: float | None) -> Speculation | None:
    """Returns when a step gets a second attempt; None: never."""
    if factor is None:
        return None
    return Speculation(kinds=frozenset(name for name, kind in KINDS.items() if kind.fans_out), factor=factor)


def _print_errors(request: RunRequest, result: RunResult, console: Console) -> None:
    shown = list(result.errors.items())[:MAX_ERRORS]
    for name, error in shown:
        console.print(f"\nstep {escape(name)} failed", style="bold red")
        console.print(escape(error.tail()), highlight=False, soft_wrap=True)
        _print_line(console, "log", error.log)
    if len(result.errors) > len(shown):
        num_more = len(result.errors) - len(shown)
        console.print(f"{num_more} more steps failed: clozeline status {request.recipe}", style="red")


def _print_line(console: Console, verb: str, text: str) -> None:
    console.print(f"{verb:<9} {escape(text)}", highlight=False, soft_wrap=True)
