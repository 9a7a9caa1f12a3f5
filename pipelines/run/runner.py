"""Runs a recipe: check, plan, execute, publish. The caller supplies the display.

Continues without failed members if `ensemble.min_members` allows it.

Without that key a missing member is an error: every step that needs the ensemble is blocked. With it, the config of the
ensemble's step lists the dropped members. Its fingerprint and the report therefore show them, and the next run retries
them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from rich.markup import escape

from cluster.errors import StoreError
from cluster.run.events import Event, EventHandler
from cluster.run.result import RunOptions, RunResult, Status
from cluster.run.scheduler import execute
from cluster.steps.plan import Plan, PlanState
from cluster.store.base import Store
from cluster.store.garbage import ActiveRun, active_run, enter_recipe
from cluster.store.lease import Leases
from cluster.store.manifest import Manifest
from cluster.tracking.server import URI_VARIABLE, Destination
from cluster.tracking.server_notes import ServerNotes
from cluster.tracking.sync import fetch_waiting, hand_over_waiting
from cluster.tracking.tracker import Tracker
from pipelines.dag.fewshot import plan_recipe
from pipelines.kinds import KINDS
from pipelines.preflight.checks import newer_assets
from pipelines.run import publication
from pipelines.run.model_registration import models_of, register_models
from pipelines.run.progress import ProgressWriter
from pipelines.run.publication import Datasets, log_plan, publish, resolved_recipe
from pipelines.run.remaining import RemainingTime
from pipelines.run.request import RunDisplay, RunRequest, check_machine, check_request
from pipelines.schema.config import PipelineConfig

MANY_RECORDS = 1000
"""MLflow needs seconds for more records than that, which is shown."""


def run_recipe(request: RunRequest, options: RunOptions, display: RunDisplay, *, register: bool = True) -> RunResult:
    """Runs a recipe.

    Args:
        request: The recipe and the store.
        options: Which steps to run, and how.
        display: Shows the run.
        register: Register the classifier and the prompts in MLflow's model registry.

    Raises:
        InputError, ClusterError: bad input; no step was run.
    """
    with display.progress(display.console) as on_start:
        warnings = check_request(request, on_start)
    for warning in warnings:
        display.console.print(f"warning   {escape(warning)}", style="yellow", highlight=False, soft_wrap=True)
    if options.max_parallel is None:
        options = replace(options, max_parallel=request.config.resources.max_parallel)
    with Leases(options.ttl_s) as leases, active_run(request.store, leases) as run:
        return _run_entered(request, options, display, leases, run, register=register)


def _run_entered(
    request: RunRequest, options: RunOptions, display: RunDisplay, leases: Leases, run: ActiveRun, *, register: bool
) -> RunResult:
    """Plans, executes and publishes. The store knows what the run reads, so `gc` at the same time does no harm."""
    name, console = request.config.name, display.console
    for text in newer_assets(request.config):
        console.print(f"newer     {escape(text)}", style="yellow", highlight=False, soft_wrap=True)
    planned = plan_recipe(request.config, request.store, options)
    steps = {step: key.fingerprint for step, key in planned.keys.items()}
    run.keep(steps)
    check_machine(request, options, planned)
    enter_recipe(request.store, name, resolved_recipe(request), steps)
    num_steps = Counter(item.state for item in planned)
    console.print(f"{name}: {num_steps[PlanState.RUN]} steps to run, {num_steps[PlanState.CACHED]} cached")
    datasets = Datasets(planned, request.store)
    tags = {"recipe": name, **publication.run_tags()}
    with suppress(StoreError):  # the next run tries again
        fetch_waiting(request.store, leases)
    destination = Destination(request.store.local, name, tracking_server() or "")
    known = _known_experiment(request, planned, destination, register=register)
    registered: dict[str, str] = {}
    with Tracker.open(
        request.store.local, name, name, uri=destination.uri, tags=tags, datasets=datasets, experiment_id=known
    ) as tracker:
        log_plan(tracker, request, planned)
        with run_events(display, num_steps[PlanState.RUN], planned, request.store, run) as on_event:
            result = execute(planned, request.store, options, tracker, on_event, leases)
        manifests = {**planned.manifests, **result.manifests}
        if result.failed and (dropped := dropped_members(request.config, planned, manifests, request.store)):
            planned, result = _run_without(dropped, result, request, options, tracker, display, leases, run)
        if not known and tracker.num_waiting > MANY_RECORDS:
            console.print(f"sending   {tracker.num_waiting:,} records to MLflow")
        tracker.parent.log_datasets(datasets.all())
        publish(request, planned, result, tracker, console)
        if register and not known and not result.is_interrupted:
            registered = register_models(request, planned, result, tracker, console)
        if not result.ok:
            tracker.close("KILLED" if result.is_interrupted else "FAILED")
    if not known and tracker.experiment_id:
        ServerNotes.read(destination).add(destination, tracker.experiment_id, registered)
    problems = tracker.new_problems()
    try:
        hand_over_waiting(request.store)
    except StoreError as error:
        problems.append(f"the records for MLflow stay on this machine: {error.problem}")
    if tracker.runs_page:
        console.print(f"runs      {escape(tracker.runs_page)}", highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(f"warning   {escape(problem)} Results are not affected.", style="yellow", highlight=False)
    return result


def _known_experiment(request: RunRequest, planned: Plan, destination: Destination, *, register: bool) -> str:
    """Returns the id of the experiment if all steps are cached and all models registered. Otherwise an empty text.

    Then the run needs nothing from MLflow's database, and another process can send its records.
    """
    if request.store.url != str(request.store.local):
        return ""
    selected = [item for item in planned if item.selected]
    if any(item.state is not PlanState.CACHED for item in selected):
        return ""
    notes = ServerNotes.read(destination)
    steps = [item.step for item in selected]
    models = models_of(request.config.name, steps, planned.manifests) if register else {}
    return notes.experiments.get(destination.experiment, "") if models.items() <= notes.models.items() else ""


@contextmanager
def run_events(
    display: RunDisplay, num_steps: int, planned: Plan, store: Store, run: ActiveRun
) -> Iterator[EventHandler]:
    """Shows the events of a run with the time that is left, and writes its progress to the store."""
    remaining = RemainingTime(planned, store)
    with display.events(display.console, num_steps, remaining) as shown, ProgressWriter(run, shown) as on_event:

        def handle(event: Event) -> None:
            remaining(event)
            on_event(event)

        yield handle


def _run_without(
    dropped: tuple[str, ...],
    first: RunResult,
    request: RunRequest,
    options: RunOptions,
    tracker: Tracker,
    display: RunDisplay,
    leases: Leases,
    run: ActiveRun,
) -> tuple[Plan, RunResult]:
    """Runs the ensemble and all later steps without the members that failed."""
    display.console.print(f"dropped   {', '.join(dropped)} (ensemble.min_members)", style="yellow")
    options = replace(options, from_=("soft_labels",))
    planned = plan_recipe(request.config, request.store, options, dropped=dropped)
    steps = {step: key.fingerprint for step, key in planned.keys.items()}
    run.keep(steps)
    enter_recipe(request.store, request.config.name, resolved_recipe(request), steps)
    with run_events(display, len(first.blocked), planned, request.store, run) as on_event:
        second = execute(planned, request.store, options, tracker, on_event, leases)
    return planned, merge_results(first, second)


def tracking_server() -> str | None:
    """Returns the tracking server that the environment sets. Default: a database in the local folder of the store."""
    return os.environ.get(URI_VARIABLE) or None


def dropped_members(
    config: PipelineConfig, planned: Plan, manifests: Mapping[str, Manifest], store: Store
) -> tuple[str, ...]:
    """Returns the members whose last attempt failed, if enough members have a result; else none.

    Args:
        config: The recipe.
        planned: The plan of all its steps.
        manifests: The results of its steps.
        store: The store with the failures.
    """
    if config.ensemble.min_members is None:
        return ()
    ensembles = [step for step in planned.steps.values() if step.kind == "soft_labels"]
    members = {item.name for step in ensembles for item in step.upstream() if KINDS[item.kind].votes}
    failed = [
        name
        for name in planned.steps
        if name in members - manifests.keys() and store.failure(name, planned.keys[name].fingerprint) is not None
    ]
    num_finished = len(members & manifests.keys())
    is_enough = num_finished >= config.ensemble.min_members and num_finished + len(failed) == len(members)
    return tuple(failed) if is_enough else ()


def merge_results(first: RunResult, second: RunResult) -> RunResult:
    """Merges two results: of the run in which members failed, and of the run that continued without them."""
    steps = {name: report for name, report in first.steps.items() if report.status in (Status.EXECUTED, Status.CACHED)}
    return RunResult(
        steps=steps | second.steps,
        errors=second.errors,
        wall_s=first.wall_s + second.wall_s,
        signal=second.signal,
    )
