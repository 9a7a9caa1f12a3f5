"""A run, from recipe to report: check, plan, execute, publish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster.keys.versions import versions
from cluster.outcome import Options, Outcome
from cluster.plan import PlannedStep, State, plan
from cluster.scheduler import OnEvent, execute
from cluster.step import Step
from cluster.storage.location import open_store
from cluster.storage.store import Store
from cluster.tracking.tracker import Tracker
from pipelines import fewshot
from pipelines.checks import disks, memory, preflight
from pipelines.commands import planning
from pipelines.config import PipelineConfig
from pipelines.recipe import find_recipe, locate, read_recipe
from pipelines.report import flat_starts
from pipelines.reporting import charts, provenance, publish
from pipelines.steps import quorum
from pipelines.steps.datasets import Datasets
from stages.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a person asked for. `recipe` and `overrides` as typed, `path` the file behind the recipe."""

    recipe: str
    overrides: tuple[str, ...]
    path: Path
    config: PipelineConfig
    store: Store


def request(recipe: str, overrides: list[str] | None, store: str | Path) -> Request:
    """Reads the recipe and opens the store."""
    path = find_recipe(recipe)
    config = read_recipe(path, PipelineConfig, overrides or ())
    return Request(recipe=recipe, overrides=tuple(overrides or ()), path=path, config=config, store=open_store(store))


Display = Callable[[Console, int], AbstractContextManager[OnEvent]]
"""Makes the display of a run: (console, steps to run) -> what events are given to."""


def run(
    asked: Request,
    options: Options,
    console: Console,
    *,
    progress: Callable[[Console], AbstractContextManager[preflight.OnStart]],
    show: Display,
    register: bool = True,
) -> Outcome:
    """Runs a recipe and shows how it goes.

    Args:
        asked: The recipe and the store.
        options: Which steps, and how.
        console: Shows it; a quiet one is told of failures all the same, on standard error.
        progress: Makes the display of what happens before the run.
        register: Put the student and the prompts into MLflow's model registry.
        show: What events are given to.

    Raises:
        InputError, ClusterError: bad input; nothing was run.
    """
    with progress(console) as begins:
        check(asked, begins)
    if options.max_parallel is None:
        options = replace(options, max_parallel=asked.config.resources.max_parallel)
    steps = fewshot.steps(asked.config)
    planned = plan(steps, asked.store, options)
    check_memory(asked, options, steps, planned)
    check_disks(asked, options, steps, planned)
    to_run = planning.count(planned, State.RUN)
    console.print(f"{asked.config.name}: {to_run} steps to run, {planning.count(planned, State.HIT)} in the store")
    datasets = Datasets(planned, asked.store)
    with Tracker.open(
        asked.store.local,
        asked.config.name,
        asked.config.name,
        uri=tracking_server(),
        tags={"recipe": asked.config.name, **provenance.tags()},
        datasets=datasets,
    ) as tracker:
        _record_plan(tracker, asked, steps, planned)
        with show(console, to_run) as display:
            outcome = execute(steps, asked.store, options, tracker, display)
        if outcome.failed and (dropped := quorum.dropped(asked.config, asked.store)):
            console.print(f"going on without {', '.join(dropped)} (ensemble.min_members)", style="yellow")
            steps = fewshot.steps(asked.config, dropped)
            with show(console, len(outcome.blocked)) as display:
                again = execute(steps, asked.store, replace(options, from_=("soft_labels",)), tracker, display)
            outcome = quorum.merged(outcome, again)
        tracker.parent.log_datasets(datasets.all())
        _publish(asked, steps, outcome, tracker, console)
        if register and not outcome.is_interrupted:
            from pipelines.serving.registering import register_models

            register_models(asked, steps, outcome, tracker, console)
        if not outcome.ok:
            tracker.close("KILLED" if outcome.is_interrupted else "FAILED")
    return outcome


def check(asked: Request, on_start: preflight.OnStart) -> None:
    """Fetches assets and checks the recipe against them; complaints name file and line."""
    try:
        preflight.check(asked.config, on_start)
    except InputError as error:
        raise locate(error, asked.path) from error


def check_cached(asked: Request) -> None:
    """Checks the recipe against the models that are at hand, for a plan: nothing is fetched."""
    try:
        preflight.check_models(asked.config, only_cached=True)
    except InputError as error:
        raise locate(error, asked.path) from error


def check_memory(asked: Request, options: Options, steps: list[Step], planned: list[PlannedStep]) -> None:
    """Refuses steps that are to run and cannot fit into this machine; one of a cluster is let pass."""
    if options.address or not asked.config.resources.check_memory:
        return
    chosen = _to_run(steps, planned)
    try:
        memory.check(chosen, memory.room_here(chosen))
    except InputError as error:
        raise locate(error, asked.path) from error


def check_disks(asked: Request, options: Options, steps: list[Step], planned: list[PlannedStep]) -> None:
    """Refuses steps that are to run with weights on a disk, where this machine lacks what that takes."""
    if options.address:
        return
    try:
        disks.check(_to_run(steps, planned))
    except InputError as error:
        raise locate(error, asked.path) from error


def _to_run(steps: list[Step], planned: list[PlannedStep]) -> list[Step]:
    names = {line.name for line in planned if line.state is State.RUN}
    return [step for step in steps if step.name in names]


def _record_plan(tracker: Tracker, asked: Request, steps: list[Step], planned: list[PlannedStep]) -> None:
    """What the parent run shows before anything runs: the resolved recipe, the graph, the plan."""
    resolved = yaml.safe_dump(asked.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    tracker.parent.log_text("recipe.yaml", resolved)
    tracker.parent.log_text("graph.mmd", planning.mermaid(steps))
    rows = [
        {"state": line.state.value, "step": line.name, "fingerprint": line.fingerprint, "why": "; ".join(line.reasons)}
        for line in planned
    ]
    tracker.parent.log_table("plan", rows)
    tracker.parent.log_params({"recipe": asked.config.name, "steps": len(steps), **flat(asked.config)})


def _publish(asked: Request, steps: list[Step], outcome: Outcome, tracker: Tracker, console: Console) -> None:
    """Writes the report, if its step has a result, and shows the leaderboard."""
    # of all steps, also of those that this run was not asked to look at
    seconds = {line.name: line.manifest.seconds for line in plan(steps, asked.store) if line.manifest is not None}
    figures = {"executed": len(outcome.executed), "cached": len(outcome.cached), "wall_s": round(outcome.wall_s, 2)}
    _record_costs(tracker, outcome, figures, seconds)
    manifest = outcome.manifests.get("report")
    if manifest is None:
        return
    commit = provenance.commit()
    about = {**figures, "versions": versions(), "commit": commit[0] if commit else None}
    report = publish.build(asked.config.name, manifest.result, seconds, about)
    files = asked.store.files("report", manifest.fingerprint)
    folder = asked.store.local / "reports" / asked.config.name
    details = json.loads((files / "details.json").read_text())
    publish.write(report, files / "leaderboard.png", folder, details, charts.graph(steps, seconds))
    asked.store.share(folder)
    for name in ("report.json", "report.md", "report.png", "report.html"):
        tracker.parent.log_artifact(folder / name, "report")
    if outcome.executed:
        from pipelines.commands.drawing import draw

        tracker.parent.log_figure("graph", draw(steps, seconds))
    for picture in sorted(files.glob("*.png")):
        tracker.parent.log_artifact(picture, "figures")
    tracker.parent.describe(publish.markdown(report))
    tracker.parent.log_table("leaderboard", publish.flat_rows(report))
    tracker.parent.log_table("starts", flat_starts(report["starts"]))
    tracker.parent.log_table("learning_curve", report["learning_curve"])
    if report["advice"]:
        tracker.parent.log_table("next", report["advice"])
    tracker.parent.log_metrics(
        {
            f"leaderboard/{row['name']}/{name}": row[name]["mean"]
            for row in report["rows"]
            for name in ("accuracy", "macro_f1")
        }
    )
    console.print(publish.table(report, console.width))
    for note in report["notes"]:
        console.print(escape(note), style="dim", highlight=False)
    console.print(f"report  {escape(asked.store.address(folder / 'report.html'))}", highlight=False, soft_wrap=True)


def _record_costs(
    tracker: Tracker, outcome: Outcome, figures: Mapping[str, float], seconds: Mapping[str, float]
) -> None:
    """What this run cost, and what all of its results together did when they were made."""
    executed = sum(outcome.steps[name].seconds for name in outcome.executed)
    costs = {**figures, "executed_s": round(executed, 2), "results_s": round(sum(seconds.values()), 2)}
    tracker.parent.log_metrics({f"pipeline/{name}": float(value) for name, value in costs.items()})
    rows = [
        {"step": name, "status": step.status.value, "seconds": round(step.seconds, 1), "why": step.reason}
        for name, step in outcome.steps.items()
    ]
    tracker.parent.log_table("times", rows)


def flat(config: BaseModel) -> dict[str, Any]:
    """The resolved recipe with dotted names, so that two runs can be compared key by key; what is not set is left out.

    Names and patterns are free text: a dot in them stays what it is.
    """
    found: dict[str, Any] = {}
    waiting = list(config.model_dump(mode="json").items())
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting = [(f"{name}.{key}", item) for key, item in value.items()] + waiting
        elif value is not None:
            found[name] = value
    return found


def tracking_server() -> str | None:
    """Where runs are tracked if a person says so; else beside the store, or for a store far away on this machine."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def status(asked: Request) -> list[dict[str, Any]]:
    """For every step: committed, running (and by whom), failed (with its last error and log) or not run yet."""
    rows = []
    for line in plan(fewshot.steps(asked.config), asked.store):
        lease = asked.store.lease(line.name, line.fingerprint)
        failure = asked.store.failure(line.name, line.fingerprint)
        if lease is not None:
            state, about = "running", str(lease.owner)
        elif line.manifest is not None:
            state, about = "committed", f"{line.manifest.seconds:.0f} s, {line.manifest.num_bytes / 1e6:.1f} MB"
        elif failure is not None:
            state, about = "failed", f"{failure.error} ({failure.log})"
        else:
            state, about = "not run", "; ".join(line.reasons)
        rows.append({"state": state, "step": line.name, "about": about})
    return rows
