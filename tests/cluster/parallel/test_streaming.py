"""Streams through real actors of Ray Data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cluster.errors import GraphError
from cluster.parallel.streaming import StreamingEngine
from cluster.run.ray_session import Capacity
from cluster.steps.step import Resources
from tests.support import stream_helpers

SOURCES = [("a", 30), ("empty", 0), ("b", 1), ("c", 17)]


def streamed(folder: Path, sources: list[tuple[str, int]], workers: int = 2) -> list[stream_helpers.Answer]:
    engine = StreamingEngine(folder, Resources(workers=workers, cpus=0.5, strategy="stream"))
    return list(engine.map_batches(sources, stream_helpers.read, partial(stream_helpers.make, folder)))


def expected(sources: list[tuple[str, int]]) -> list[stream_helpers.Batch]:
    return [(name, number) for name, count in sources for number in range(count)]


def test_batches_come_in_order_once_and_from_workers_that_are_made_once(ray_session: Capacity, tmp_path: Path) -> None:
    found = streamed(tmp_path, SOURCES)
    assert [item[:2] for item in found] == expected(SOURCES)
    assert len({item[2] for item in found}) == 2, "both workers have part in it"
    assert len(list(tmp_path.glob("made-*"))) == 2


def test_a_batch_whose_worker_died_is_made_again(ray_session: Capacity, tmp_path: Path) -> None:
    sources = [("a", 5), ("fatal", 1), ("b", 5)]
    assert [item[:2] for item in streamed(tmp_path, sources)] == expected(sources)
    assert (tmp_path / "fault").exists()


def test_what_a_reader_refuses_is_told_as_it_is(ray_session: Capacity, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"row 3 of broken is broken\. Mend it"):
        streamed(tmp_path, [("broken", 3)])


def test_what_a_function_raises_is_told_as_it_is(ray_session: Capacity, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^this batch is wrong$"):
        streamed(tmp_path, [("wrong", 1)], workers=1)
    engine = StreamingEngine(tmp_path, Resources(cpus=0.5, strategy="stream"))
    with pytest.raises(GraphError, match=r"the model is missing\. Fetch it"):
        list(engine.map_batches([("a", 3)], stream_helpers.read, stream_helpers.bad))


def test_nothing_to_read_starts_nothing(tmp_path: Path) -> None:
    assert streamed(tmp_path, []) == []
    assert not list(tmp_path.iterdir())
