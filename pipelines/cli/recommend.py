"""The command that recommends settings for a recipe: by rules, or by a search that tries them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster.run.result import RunOptions
from cluster.run.signals import exit_code
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE, renamed_option
from pipelines.cli.views.progress_display import preflight_progress, select_output_mode
from pipelines.cli.views.terminal import console
from pipelines.init import recommendations
from pipelines.init.budget import DEFAULT_BUDGET, parse_budget
from pipelines.run.request import RunRequest, load_request
from pipelines.search.driver import SearchResult, difference, search_prompts
from pipelines.search.output import comparison, trial_table, write_winner
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.engine import ENGINE
from stages.common.errors import InputError

MAX_REASONS = 5
"""Reasons why settings were left out that are shown."""


def recommend(
    recipe: options.Recipe,
    memory: Annotated[
        float | None, typer.Option(help="GiB of memory per worker. Default: memory of this machine.", min=0.1)
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Try methods, lengths, learning rates and patterns of prompts, judged by cross-validation on the "
            "labeled examples, and write the recipe with the best setting.",
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="DURATION", help=f"Time that --search may take: 1h30m. Default: {DEFAULT_BUDGET}."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Write the recipe with these settings to a new file. Default of --search: NAME.search.yaml.",
        ),
    ] = None,
    override: options.Override = None,
    max_parallel: options.MaxParallel = None,
    store: options.StoreFolder = DEFAULT_STORE,
    address: options.Address = None,
    apply: Annotated[Path | None, renamed_option("--apply", "--output")] = None,
) -> None:
    """Recommend a method, lengths, rates and parallelism for a recipe, or search for settings of its prompts."""
    del apply
    if not search:
        for name, value in (("budget", budget), ("max-parallel", max_parallel), ("address", address)):
            if value is not None:
                raise InputError(f"--{name} is for a search.", f"Add --search, or remove --{name}.")
        _recommend_by_rules(load_request(recipe, override, DEFAULT_STORE), memory, output)
        return
    if memory is not None:
        raise InputError("--memory is for recommendations without a search.", "Remove --memory, or --search.")
    budget_s = parse_budget(budget or DEFAULT_BUDGET)
    request = load_request(recipe, override, store)
    path = output or Path(f"{request.path.stem}.search.yaml")
    if path.exists():
        raise InputError(f"{path} exists.", "Set --output to a new file.")
    run_options = RunOptions(
        engine=ENGINE, identify=IDENTIFY, locate=LOCATE, keep_going=True,
        max_parallel=max_parallel or request.config.resources.max_parallel, address=address,
    )  # fmt: skip
    result = search_prompts(request, budget_s, run_options, select_output_mode(as_json=False, is_quiet=False))
    code = _show_and_write(request, result, path)
    if code:
        raise typer.Exit(code)


def _recommend_by_rules(request: RunRequest, memory: float | None, output: Path | None) -> None:
    memory_bytes = int(memory * 2**30) if memory else None
    with preflight_progress(console) as on_start:
        profile = recommendations.gather_task_profile(request.config, memory_bytes, on_start)
    settings = recommendations.recommend_settings(profile)
    console.print(recommendations.recommendation_table(settings))
    if output:
        recommendations.write_recommended(request.config, settings, output)
        _print_line("wrote", str(output))


def _show_and_write(request: RunRequest, result: SearchResult, path: Path) -> int:
    """Prints the trials, writes the recipe with the best setting, and returns the exit code."""
    for name, error in result.failed.items():
        console.print(
            f"failed    {escape(name)}: {escape(error.problem)}", style="red", highlight=False, soft_wrap=True
        )
        _print_line("log", error.log)
    if result.trials:
        console.print(trial_table(result))
    for reason, methods in list(result.left_out.items())[:MAX_REASONS]:
        _print_line("left out", f"{', '.join(methods)}: {reason}")
    _print_line("total", f"{result.num_executed} trials executed, {_num_cached(result)} cached, {result.wall_s:.0f} s")
    if result.signal:
        _print_line("resume", "repeat the command: finished trials are kept")
        return exit_code(result.signal)
    winner, own = result.winner, result.own
    if winner is None or own is None:
        return 1
    if result.ended:
        _print_line("ended", f"{result.ended}.")
    if all(item.trial.candidate.is_own for item in result.trials if item.trial.is_complete):
        _print_line("error", "the budget ended before another setting was trained in full length. Raise --budget: "
                    "finished trials are kept.")  # fmt: skip
        return 1
    gain = difference(request.store, winner, own)
    write_winner(request.config, result, gain, path)
    _print_line("best", f"{winner.trial.candidate.name}: {comparison(winner, own, gain)}")
    _print_line("wrote", str(path))
    _print_line("next", f"clozeline run {shlex.quote(str(path))}")
    return 0


def _num_cached(result: SearchResult) -> int:
    return sum(item.is_cached for item in result.trials)


def _print_line(verb: str, text: str) -> None:
    console.print(f"{verb:<9} {escape(text)}", highlight=False, markup=True, soft_wrap=True)
