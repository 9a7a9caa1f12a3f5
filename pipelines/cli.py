"""The command line: run, resume, plan, explain, status, graph, score, predict, serve, recommend, gc, doctor, init,
schema.

Exit status: 0 done, 1 a step failed, 2 bad input, 130 stopped with Ctrl-C, 143 with SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.errors import ClusterError
from cluster.outcome import Options, Outcome
from cluster.step import Step
from pipelines.commands import json_events, resuming
from pipelines.commands import options as words
from pipelines.commands.options import DEFAULT_STORE
from pipelines.commands.terminal import console, errors, lines_of, sink
from pipelines.running import Request, tracking_server
from stages.errors import InputError
from stages.tasks import Task

app = typer.Typer(
    help="From a few labelled texts and a pile of unlabelled ones to a small, fast classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
BAD_INPUT = 2


def main() -> None:
    """Entry point: turns errors into messages and exit codes. `--debug`, anywhere, shows tracebacks."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # their bars would stand among our answers
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except (InputError, ClusterError) as error:
        if debug:
            raise
        errors.print(f"[bold red]error[/]  {escape(str(error))}", highlight=False, soft_wrap=True)
        if "--json" in sys.argv:
            json_events.failed(sys.stdout, error, BAD_INPUT)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        # the reader of our output left: not an error of ours; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.callback()
def _common(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """From a few labelled texts and a pile of unlabelled ones to a small, fast classifier."""


def run(
    recipe: words.Recipe,
    override: words.Override = None,
    from_: words.From = None,
    until: words.Until = None,
    only: words.Only = None,
    force: words.Force = None,
    keep_going: words.KeepGoing = False,
    max_parallel: words.MaxParallel = None,
    verify: words.Verify = False,
    register: words.Register = True,
    store: words.StoreFolder = DEFAULT_STORE,
    address: words.Address = None,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Run a recipe. Committed steps are taken from the store, the rest are run."""
    from cluster.interrupt import exit_code
    from pipelines import fewshot, running
    from pipelines.commands import showing
    from pipelines.commands.display import preparing

    options = Options(
        from_=tuple(from_ or ()),
        until=tuple(until or ()),
        only=tuple(only or ()),
        force=tuple(force or ()),
        verify=verify,
        keep_going=keep_going,
        max_parallel=max_parallel,
        address=address,
    )
    shown = showing.choose(as_json=as_json, is_quiet=quiet)
    asked = running.request(recipe, override, store)
    outcome = running.run(asked, options, shown.console, progress=preparing, show=shown.events, register=register)
    _farewell(asked, options, fewshot.steps(asked.config), outcome, shown.console, register)
    code = exit_code(outcome.signal) if outcome.is_interrupted else 0 if outcome.ok else 1
    shown.finish(outcome, code)
    if code:
        raise typer.Exit(code)


MAX_ERRORS = 3
"""Failed steps whose traces are shown; one mistake often fails them all."""


def _farewell(
    asked: Request, options: Options, steps: list[Step], outcome: Outcome, console: Console, register: bool
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
        again = resuming.command(asked.recipe, asked.overrides, asked.store.url, options, steps, outcome, register)
        console.print(f"resume  {escape(again)}", highlight=False, soft_wrap=True)
    console.print(
        f"{len(outcome.executed)} steps executed, {len(outcome.cached)} from the store, {outcome.wall_s:.0f} s. "
        f"Browse the runs: {tracking_server() or f'make ui STORE={shlex.quote(str(asked.store.local))}'}",
        highlight=False,
        soft_wrap=True,
    )


def resume(
    recipe: words.Recipe,
    steps: Annotated[list[str] | None, typer.Argument(help="Go on from these steps only: distill, pet/*.")] = None,
    override: words.Override = None,
    keep_going: words.KeepGoing = False,
    max_parallel: words.MaxParallel = None,
    register: words.Register = True,
    store: words.StoreFolder = DEFAULT_STORE,
    address: words.Address = None,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
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


def explain(
    recipe: words.Recipe,
    steps: Annotated[list[str], typer.Argument(help="Steps, or globs.", metavar="STEP...")],
    override: words.Override = None,
    store: words.StoreFolder = DEFAULT_STORE,
) -> None:
    """Show why a step runs: its key beside the nearest committed one, difference by difference."""
    from pipelines import fewshot, running
    from pipelines.commands import explaining

    asked = running.request(recipe, override, store)
    for explanation in explaining.explain(fewshot.steps(asked.config), asked.store, steps):
        explaining.show(explanation, console)


def plan(
    recipe: words.Recipe,
    override: words.Override = None,
    from_: words.From = None,
    until: words.Until = None,
    only: words.Only = None,
    force: words.Force = None,
    verify: words.Verify = False,
    store: words.StoreFolder = DEFAULT_STORE,
) -> None:
    """Show what a run would do, and why. Runs nothing and fetches nothing."""
    from cluster.plan import Selection
    from cluster.plan import plan as make_plan
    from pipelines import fewshot, running
    from pipelines.checks import memory
    from pipelines.commands import planning

    asked = running.request(recipe, override, store)
    selection = Selection(
        from_=tuple(from_ or ()),
        until=tuple(until or ()),
        only=tuple(only or ()),
        force=tuple(force or ()),
        verify=verify,
    )
    running.check_cached(asked)
    steps = fewshot.steps(asked.config)
    room = memory.room_here(steps)
    console.print(planning.plan_table(make_plan(steps, asked.store, selection), memory.lines(steps, room)))
    console.print(memory.told(room), style="dim", highlight=False)


def status(recipe: words.Recipe, override: words.Override = None, store: words.StoreFolder = DEFAULT_STORE) -> None:
    """Show which steps are committed, running or failed."""
    from pipelines import running

    table = Table(box=None, pad_edge=False)
    for column in ("state", "step", "about"):
        table.add_column(column, overflow="fold", no_wrap=column == "step")
    styles = {"committed": "green", "running": "cyan", "failed": "red"}
    for row in running.status(running.request(recipe, override, store)):
        table.add_row(row["state"], row["step"], escape(row["about"]), style=styles.get(row["state"]))
    console.print(table)


def graph(
    recipe: words.Recipe,
    override: words.Override = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write a picture instead.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write a drawing instead.")] = None,
) -> None:
    """Print the graph of a recipe as mermaid text, or draw it."""
    from pipelines import fewshot, running
    from pipelines.commands import drawing, planning

    steps = fewshot.steps(running.request(recipe, override, DEFAULT_STORE).config)
    if png is None and svg is None:
        typer.echo(planning.mermaid(steps), nl=False)
        return
    for path in filter(None, (png, svg)):
        drawing.draw(steps).savefig(path, dpi=120, format=path.suffix.removeprefix(".") or None)
        errors.print(f"wrote {path}", highlight=False)


class ScoreRecipe(BaseModel, frozen=True, extra="ignore"):
    """What `score` reads of a recipe: the task, and the backbone's section if there is one."""

    task: Task = Field(description="Labels, patterns and label words.")
    backbone: dict[str, object] = Field({}, description="The backbone's section.")


def score(
    recipe: words.Recipe,
    input_: words.InputFile,
    output: words.OutputFile = None,
    pattern: Annotated[list[str] | None, typer.Option("--pattern", help="Only this pattern. Repeatable.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Another model: an asset's reference.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Tokens at the most.")] = None,
    override: words.Override = None,
) -> None:
    """Zero-shot label logits of each pattern for each line, for trying patterns before any training."""
    from pipelines.checks import preflight
    from pipelines.commands.display import preparing
    from pipelines.recipe import RecipeError, find_recipe, locate, read_recipe
    from pipelines.serving import scoring
    from stages.models.backbones import BackboneConfig

    path = find_recipe(recipe)
    found = read_recipe(path, ScoreRecipe, override or (), ignore_others=True)
    settings = {**found.backbone, "precision": "fp32"}
    settings |= {key: value for key, value in {"asset": backbone, "max_length": max_length}.items() if value}
    if "asset" not in settings:
        raise RecipeError("no backbone is given.", "Add --backbone ASSET, or a backbone section.", where=str(path))
    config = BackboneConfig.model_validate(settings)
    for name in pattern or ():
        if name not in found.task.patterns:
            raise RecipeError(f"there is no pattern {name!r}.", f"Take one of: {', '.join(found.task.patterns)}.")
    try:
        with preparing(errors) as show:
            preflight.fetch({"backbone.asset": config.asset}, show)
            preflight.check_scoring(found.task, pattern or list(found.task.patterns), config)
    except InputError as error:
        raise locate(error, path) from error
    with lines_of(input_) as lines, sink(output) as answers:
        for line in scoring.score(found.task, pattern or list(found.task.patterns), config, lines, input_):
            answers.write(line + "\n")


def predict(
    recipe: Annotated[str, typer.Argument(help="A recipe that was run, or the folder of a classifier.")],
    input_: words.InputFile,
    prompts: Annotated[
        str | None, typer.Option(help="With soft prompts instead: name of their method. Each line names its task.")
    ] = None,
    output: words.OutputFile = None,
    override: words.Override = None,
    store: words.StoreFolder = DEFAULT_STORE,
) -> None:
    """Label lines with the distilled classifier or with prompts: a JSON line with label and probabilities for each."""
    from pipelines.serving import answering, scoring

    labeller = answering.find(recipe, override, store, prompts).load()
    with lines_of(input_) as lines, sink(output) as answers:
        for line in scoring.label(labeller, lines, input_):
            answers.write(line + "\n")


def recommend(
    recipe: words.Recipe,
    memory: Annotated[
        float | None, typer.Option(help="GiB of a worker's device; left out: what this machine has.", min=0.1)
    ] = None,
    apply: Annotated[Path | None, typer.Option(help="Write the recipe with all of it to this new file.")] = None,
    override: words.Override = None,
) -> None:
    """Say which method, lengths, rates and parallelism suit a recipe's task and backbone, and why."""
    from pipelines import running
    from pipelines.advising import facts, recommending
    from pipelines.commands.display import preparing

    asked = running.request(recipe, override, DEFAULT_STORE)
    with preparing(console) as show:
        found = recommending.recommend(facts.gather(asked.config, int(memory * 2**30) if memory else None, show))
    console.print(recommending.table(found))
    if apply:
        recommending.write(asked.config, found, apply)
        console.print(f"written  {apply}", highlight=False)


def gc(
    recipes: Annotated[list[str], typer.Argument(help="All recipes whose results are to stay.", metavar="RECIPE...")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    override: words.Override = None,
    store: words.StoreFolder = DEFAULT_STORE,
) -> None:
    """Remove results of the recipes' steps that none of them reaches any more."""
    from cluster.storage.sweep import judge, sweep
    from pipelines.commands import sweeping

    opened, found = sweeping.leftovers(recipes, override, store)
    kept = judge(found) if dry_run else sweep(opened, found)
    removed = [item for item in found if item not in kept]
    if found:
        console.print(sweeping.table(found, kept))
    total = sweeping.size(sum(item.num_bytes for item in removed))
    console.print(f"{len(removed)} results{' would be' if dry_run else ''} removed, {total}", highlight=False)


def doctor(recipe: words.Recipe = "demo", override: words.Override = None) -> None:
    """Examine versions, processors, disk, network and assets: what is missing and how to get it."""
    from pipelines import running
    from pipelines.commands.doctor import examine

    asked = running.request(recipe, override, DEFAULT_STORE)
    fatal = False
    for finding in examine(asked.config.assets):
        mark = "[red]bad [/]" if finding.fatal else "[yellow]note[/]" if finding.remedy else "[green]good[/]"
        text = f"{finding.what}: {finding.found}" + (f". {finding.remedy}" if finding.remedy else "")
        console.print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
        fatal |= finding.fatal
    if fatal:
        raise typer.Exit(1)
