"""Runs a recipe: check, plan, execute, publish. The caller supplies the console and the display."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace

from rich.console import Console

from cluster.run.events import EventHandler
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import PlannedStep, PlanState
from cluster.tracking.tracker import Tracker
from pipelines.dag import quorum
from pipelines.dag.planner import plan_recipe
from pipelines.preflight.assets import OnStart
from pipelines.run import provenance
from pipelines.run.model_registration import register_models
from pipelines.run.publication import log_plan, publish
from pipelines.run.request import RunRequest, check_memory, check_nvme, check_request
from pipelines.run.tracked_datasets import Datasets


def num_in_state(planned: Iterable[PlannedStep], state: PlanState) -> int:
    """How many steps are in a state."""
    return sum(line.state is state for line in planned)


Display = Callable[[Console, int], AbstractContextManager[EventHandler]]
"""Makes the display of a run: (console, steps to run) -> what events are given to."""


def run_recipe(
    request: RunRequest,
    options: RunOptions,
    console: Console,
    *,
    progress: Callable[[Console], AbstractContextManager[OnStart]],
    show: Display,
    register: bool = True,
) -> RunResult:
    """Runs a recipe and shows how it goes.

    Args:
        request: The recipe and the store.
        options: Which steps, and how.
        console: Shows it; a quiet one is told of failures all the same, on standard error.
        progress: Makes the display of what happens before the run.
        register: Put the student and the prompts into MLflow's model registry.
        show: What events are given to.

    Raises:
        InputError, ClusterError: bad input; nothing was run.
    """
    with progress(console) as begins:
        check_request(request, begins)
    if options.max_parallel is None:
        options = replace(options, max_parallel=request.config.resources.max_parallel)
    planned = plan_recipe(request.config, request.store, options)
    steps = list(planned.steps.values())
    check_memory(request, options, steps, planned)
    check_nvme(request, options, steps, planned)
    to_run = num_in_state(planned, PlanState.RUN)
    console.print(
        f"{request.config.name}: {to_run} steps to run, {num_in_state(planned, PlanState.CACHED)} in the store"
    )
    datasets = Datasets(planned, request.store)
    with Tracker.open(
        request.store.local,
        request.config.name,
        request.config.name,
        uri=tracking_server(),
        tags={"recipe": request.config.name, **provenance.run_tags()},
        datasets=datasets,
    ) as tracker:
        log_plan(tracker, request, steps, planned)
        with show(console, to_run) as display:
            outcome = execute(planned, request.store, options, tracker, display)
        manifests = {**planned.manifests, **outcome.manifests}
        if outcome.failed and (dropped := quorum.dropped_members(request.config, planned, manifests, request.store)):
            console.print(f"going on without {', '.join(dropped)} (ensemble.min_members)", style="yellow")
            options = replace(options, from_=("soft_labels",))
            planned = plan_recipe(request.config, request.store, options, dropped=dropped)
            steps = list(planned.steps.values())
            with show(console, len(outcome.blocked)) as display:
                again = execute(planned, request.store, options, tracker, display)
            outcome = quorum.merge_results(outcome, again)
        tracker.parent.log_datasets(datasets.all())
        manifests = {**planned.manifests, **outcome.manifests}
        publish(request, steps, outcome, manifests, tracker, console)
        if register and not outcome.is_interrupted:
            register_models(request, steps, outcome, manifests, tracker, console)
        if not outcome.ok:
            tracker.close("KILLED" if outcome.is_interrupted else "FAILED")
    return outcome


def tracking_server() -> str | None:
    """Where runs are tracked if a person says so; else beside the store, or for a store far away on this machine."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None
