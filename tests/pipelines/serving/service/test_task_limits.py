"""Limits of the texts of a task."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pipelines.serving.served_tasks import TaskLimit
from pipelines.serving.service.batcher import Metrics
from pipelines.serving.service.request_parsing import RequestError
from pipelines.serving.service.task_limits import TaskLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_texts_per_second_are_limited_on_average() -> None:
    clock, metrics = Clock(), Metrics()
    limits = TaskLimits(metrics, clock)
    limits.set({"a": TaskLimit(texts_per_second=10), "b": TaskLimit()})

    def count_admitted(seconds: float, size: int = 1) -> int:
        admitted = 0
        for _ in range(round(seconds * 100)):
            clock.now += 0.01
            try:
                with limits.admitted({"a": size, "b": 50}):
                    admitted += size
            except RequestError as error:
                assert (error.status, error.about["field"]) == (429, "task")
                assert error.retry_after_s in (1, 2)
        return admitted

    assert count_admitted(10) == pytest.approx(110, abs=2), "those of one second are saved up"
    assert count_admitted(10) == pytest.approx(100, abs=2)
    assert count_admitted(20, size=15) == pytest.approx(200, abs=15), "a large request is paid off by the next ones"
    assert b'clozeline_limited_texts_total{task="a"}' in metrics.text()


def test_texts_at_the_same_time_are_limited() -> None:
    limits = TaskLimits(Metrics())
    limits.set({"a": TaskLimit(max_waiting=3), "b": TaskLimit()})
    with ExitStack() as stack:
        stack.enter_context(limits.admitted({"a": 2, "b": 100}))
        with pytest.raises(RequestError, match="2 texts waiting, and the maximum is 3"):
            stack.enter_context(limits.admitted({"b": 1, "a": 2}))
        stack.enter_context(limits.admitted({"a": 1}))
    with limits.admitted({"a": 3}):
        pass


def test_a_new_limit_replaces_the_old_one() -> None:
    clock = Clock()
    limits = TaskLimits(Metrics(), clock)
    limits.set({"a": TaskLimit()})
    with limits.admitted({"a": 1000}):
        pass
    limits.set({"a": TaskLimit(texts_per_second=2)})
    with limits.admitted({"a": 2}):
        pass
    with pytest.raises(RequestError, match="more than 2 texts per second"), limits.admitted({"a": 1}):
        pass
    limits.set({"a": TaskLimit(texts_per_second=2), "b": TaskLimit()})
    with pytest.raises(RequestError, match="more than 2 texts per second"), limits.admitted({"a": 1}):
        pass
