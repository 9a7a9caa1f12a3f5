"""The request for a run: reads the recipe, opens the store, and runs the checks with file and line in each error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cluster.run.events import EventHandler
from cluster.run.result import RunOptions
from cluster.steps.plan import Plan, PlanState
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.preflight import memory
from pipelines.preflight.checks import LocalCheck, OnStart, check_local, check_recipe
from pipelines.run.remaining import RemainingTime
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import errors_located_in


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A recipe and its store. `recipe` and `overrides` are as typed; `path` is the file of the recipe."""

    recipe: str
    overrides: tuple[str, ...]
    path: Path
    config: PipelineConfig
    store: Store


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDisplay:
    """Shows a run. The caller supplies it, because only the command line knows the terminal."""

    console: Console
    """Prints messages and tables."""
    progress: Callable[[Console], AbstractContextManager[OnStart]]
    """Shows the checks and downloads before the run."""
    events: Callable[[Console, int, RemainingTime], AbstractContextManager[EventHandler]]
    """Shows the events of the run, given the number of steps to run and the estimate of the time that is left."""


def load_request(recipe: str, overrides: list[str] | None, store: str | Path) -> RunRequest:
    """Reads the recipe and opens the store."""
    path = find_recipe(recipe)
    config = read_recipe(path, PipelineConfig, overrides or ())
    return RunRequest(
        recipe=recipe, overrides=tuple(overrides or ()), path=path, config=config, store=open_store(store)
    )


def check_request(request: RunRequest, on_start: OnStart) -> tuple[str, ...]:
    """Downloads assets and checks the recipe with them. Errors name file and line. Returns warnings."""
    with errors_located_in(request.path):
        return check_recipe(request.config, on_start)


def check_cached(request: RunRequest) -> LocalCheck:
    """Checks the recipe with the files and models on this machine. Downloads nothing."""
    with errors_located_in(request.path):
        return check_local(request.config)


def check_machine(request: RunRequest, options: RunOptions, planned: Plan) -> None:
    """Raises `InputError` if this machine lacks the memory or the NVMe folders of a step to run.

    Does nothing on a Ray cluster.
    """
    if options.address:
        return
    to_run = [item.step for item in planned if item.state is PlanState.RUN]
    with errors_located_in(request.path):
        if request.config.resources.check_memory:
            memory.check_fits(to_run, memory.local_budget(to_run))
        memory.check_nvme_folders(to_run)
