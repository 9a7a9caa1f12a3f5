"""The request for a run: reads the recipe, opens the store, and runs the preflight checks with file and line in each
error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from cluster.run.events import Event
from cluster.run.result import RunOptions
from cluster.steps.plan import Plan, PlanState
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.preflight import memory, models
from pipelines.preflight.assets import OnStart
from pipelines.preflight.checks import check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import errors_located_in

Show: TypeAlias = Callable[[Console, int], AbstractContextManager[Callable[[Event], None]]]
"""Makes what events are given to, from a console and the number of steps that will be executed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What a person asked for. `recipe` and `overrides` as typed, `path` the file behind the recipe."""

    recipe: str
    overrides: tuple[str, ...]
    path: Path
    config: PipelineConfig
    store: Store


def load_request(recipe: str, overrides: list[str] | None, store: str | Path) -> RunRequest:
    """Reads the recipe and opens the store."""
    path = find_recipe(recipe)
    config = read_recipe(path, PipelineConfig, overrides or ())
    return RunRequest(
        recipe=recipe, overrides=tuple(overrides or ()), path=path, config=config, store=open_store(store)
    )


def check_request(request: RunRequest, on_start: OnStart) -> None:
    """Fetches assets and checks the recipe against them; complaints name file and line."""
    with errors_located_in(request.path):
        check_recipe(request.config, on_start)


def check_cached(request: RunRequest) -> None:
    """Checks the recipe against the models that are at hand, for a plan: nothing is fetched."""
    with errors_located_in(request.path):
        models.check_models(request.config, only_cached=True)


def check_memory(request: RunRequest, options: RunOptions, steps: list[Step], planned: Plan) -> None:
    """Refuses steps that are to run and cannot fit into this machine; one of a cluster is let pass."""
    if options.address or not request.config.resources.check_memory:
        return
    chosen = _to_run(steps, planned)
    with errors_located_in(request.path):
        memory.check_fits(chosen, memory.local_budget(chosen))


def check_nvme(request: RunRequest, options: RunOptions, steps: list[Step], planned: Plan) -> None:
    """Refuses steps that are to run with weights on a disk, where this machine lacks what that takes."""
    if options.address:
        return
    with errors_located_in(request.path):
        memory.check_nvme_folders(_to_run(steps, planned))


def _to_run(steps: list[Step], planned: Plan) -> list[Step]:
    names = {line.name for line in planned if line.state is PlanState.RUN}
    return [step for step in steps if step.name in names]
