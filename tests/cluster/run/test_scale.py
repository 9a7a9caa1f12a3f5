"""Plans and runs of large graphs: a step costs the same in a large graph as in a small one.

The test counts instructions of the engine, so it does not depend on the machine. It replaces Ray and the store, and
sees loops, but not copies of long lists; `benchmarks/engine.py scale` measures both.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cluster.run import scheduler
from cluster.run.capacity import Capacity
from cluster.run.ray_tasks import FinishedTask, Received
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.plan import plan
from cluster.steps.step import Resources, Step
from cluster.steps.task_spec import TaskSpec
from cluster.store.base import Comparison, LookupResult
from cluster.store.local import LocalStore
from cluster.store.manifest import FileEntry, Manifest
from cluster.tracking.recorder import AttemptStart, LogBatch
from stages.common.engine import ENGINE
from tests.support.paths import ROOT
from tests.support.steps import toy

SMALL, LARGE, ROW = 500, 2000, 50
MAX_RATIO = 1.3
CAPACITY = Capacity(cpus=1, gpus=0, node_cpus=1, node_gpus=0)
ENGINE_CODE = str(ROOT / "cluster")


class RememberedStore(LocalStore):
    """A store whose results are in memory."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.manifests: dict[str, Manifest] = {}

    def inspect_all(self, keys: Iterable[tuple[str, str]], verify: bool = False) -> list[LookupResult]:
        return [LookupResult(self.manifests.get(fingerprint)) for _, fingerprint in keys]

    def compare(self, *_: object) -> Comparison:
        return Comparison(None)


class FakeTasks:
    """Ends one task whenever the driver waits."""

    lacks_machines = False
    capacity = CAPACITY

    def __init__(self, store: RememberedStore) -> None:
        self._store = store
        self._tasks: deque[tuple[TaskSpec, tuple[Manifest, ...]]] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def steps(self) -> list[str]:
        return [spec.step for spec, _ in self._tasks]

    def find_missing(self, resources: Resources) -> None:
        del resources

    def submit(self, spec: TaskSpec, upstream: tuple[Manifest, ...]) -> None:
        self._tasks.append((spec, upstream))

    def wait(self, timeout_s: float) -> list[Received]:
        del timeout_s
        spec, upstream = self._tasks.popleft()
        start = AttemptStart(1, spec.lease.token, "log")
        manifest = Manifest(
            step=spec.step,
            fingerprint=spec.key.fingerprint,
            key={},
            files={"file": FileEntry(size=1, sha256=spec.key.fingerprint)},
            upstream_digests={item.step: item.content_digest for item in upstream},
            result=None,
        )
        self._store.manifests[spec.key.fingerprint] = manifest
        return [LogBatch(step=spec.step, started=start), FinishedTask(spec, start, manifest)]

    def close(self) -> None:
        pass


def grid(number: int) -> list[Step]:
    """Returns steps in rows. Each reads two steps of the row above."""
    steps: list[Step] = []
    for index in range(number):
        row, column = divmod(index, ROW)
        above = steps[(row - 1) * ROW : row * ROW] if row else []
        parts = (above[column], above[(column + 1) % ROW]) if above else ()
        steps.append(toy(f"grid/{row}/{column}", index, parts=parts))
    return steps


def count_operations(action: Callable[[], Any]) -> int:
    """Returns how many instructions of the engine an action executes, and how many functions it calls."""
    count = 0

    def trace_instruction(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        del frame, event, argument
        count += 1
        return trace_instruction

    def trace_call(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        del event, argument
        count += 1
        if not frame.f_code.co_filename.startswith(ENGINE_CODE):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return trace_instruction

    before = sys.gettrace()
    sys.settrace(trace_call)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def operations_per_step(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Plans a grid, runs it with tasks that end at once, and runs it again."""
    store, options, steps = RememberedStore(folder), RunOptions(engine=ENGINE), grid(number)
    monkeypatch.setattr(scheduler, "TaskPool", lambda capacity: FakeTasks(store))

    @contextmanager
    def session(*_: object) -> Iterator[Capacity]:
        yield CAPACITY

    monkeypatch.setattr(scheduler, "session", session)
    planned = plan(steps, store, options)
    counts = {
        "plan": count_operations(lambda: plan(steps, store, options)),
        "run": count_operations(lambda: execute(planned, store, options)),
    }
    assert len(store.manifests) == number
    committed = plan(steps, store, options)
    counts["plan of committed steps"] = count_operations(lambda: plan(steps, store, options))
    counts["cached run"] = count_operations(lambda: execute(committed, store, options))
    return {what: count / number for what, count in counts.items()}


@pytest.mark.timeout(300)
def test_step_costs_the_same_in_a_large_graph_as_in_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations_per_step(ROW, tmp_path / "warm", monkeypatch)  # digests of the code are computed once
    small = operations_per_step(SMALL, tmp_path / "small", monkeypatch)
    large = operations_per_step(LARGE, tmp_path / "large", monkeypatch)
    ratios = {what: large[what] / small[what] for what in small}
    assert all(count > 100 for count in small.values())
    assert max(ratios.values()) <= MAX_RATIO, ratios
