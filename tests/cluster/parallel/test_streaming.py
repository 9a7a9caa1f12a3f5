"""Maps batches over actors of Ray Data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cluster.errors import GraphError
from cluster.parallel.streaming import map_batches
from cluster.steps.step import Resources
from cluster.store.upstream import Upstream
from tests.support import streams

pytestmark = pytest.mark.ray
SOURCES = [("a", 30), ("empty", 0), ("b", 1), ("c", 17)]


def map_sources(folder: Path, sources: list[tuple[str, int]], workers: int = 2) -> list[streams.Answer]:
    resources = Resources(workers=workers, cpus=0.5, strategy="stream")
    return list(map_batches(resources, Upstream(str(folder)), sources, streams.read, partial(streams.make, folder)))


def expected(sources: list[tuple[str, int]]) -> list[streams.Batch]:
    return [(name, number) for name, count in sources for number in range(count)]


@pytest.mark.usefixtures("ray_session")
def test_batches_come_in_order_and_workers_are_built_once(tmp_path: Path) -> None:
    results = map_sources(tmp_path, SOURCES)
    assert [item[:2] for item in results] == expected(SOURCES)
    assert len({item[2] for item in results}) == 2, "both workers took part"
    assert len(list(tmp_path.glob("built-*"))) == 2


@pytest.mark.usefixtures("ray_session")
def test_batch_of_a_killed_worker_is_recomputed(tmp_path: Path) -> None:
    sources = [("a", 5), ("fatal", 1), ("b", 5)]
    assert [item[:2] for item in map_sources(tmp_path, sources)] == expected(sources)
    assert (tmp_path / "fault").exists()


@pytest.mark.usefixtures("ray_session")
def test_error_of_a_reader_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"row 3 of broken is broken\. Fix it"):
        map_sources(tmp_path, [("broken", 3)])


@pytest.mark.usefixtures("ray_session")
def test_error_of_a_function_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^this batch is wrong$"):
        map_sources(tmp_path, [("wrong", 1)], workers=1)
    with pytest.raises(GraphError, match=r"the model is missing\. Download it"):
        resources = Resources(cpus=0.5, strategy="stream")
        list(map_batches(resources, Upstream(str(tmp_path)), [("a", 3)], streams.read, streams.make_failing))


def test_no_sources_start_no_workers(tmp_path: Path) -> None:
    assert map_sources(tmp_path, []) == []
    assert not list(tmp_path.iterdir())
