"""The data that each step reads."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.steps.plan import Plan, plan
from cluster.store.base import Store
from cluster.store.manifest import FileEntry, Manifest
from pipelines.run.publication import Datasets
from tests.support.reports import graph_step

RESULT = {"num_train": 32, "num_dev": 0, "num_unlabeled": 1000, "num_test": 500}


class FakeStore(dict[str, Manifest]):
    """A store with these results by step, for `lookup` and `url` only."""

    url = "/store"

    def lookup(self, step: str, fingerprint: str) -> Manifest | None:
        del fingerprint
        return self.get(step)


def manifest(step: str) -> Manifest:
    names = ("train", "unlabeled", "test", "unlabeled_gold")
    files = {f"{name}.jsonl": FileEntry(size=9, sha256=f"{name[0]}" * 64) for name in names}
    files["dev.jsonl"] = FileEntry(size=0, sha256="d" * 64)
    return Manifest(step=step, fingerprint="f" * 64, key={}, files=files, upstream_digests={}, result=RESULT)


@pytest.fixture
def planned(store: Store) -> Plan:
    films = graph_step("data/films")
    leaves = [
        graph_step(name, base=films)
        for name in ("pet/review/0", "zero_shot/review", "distill/small/0", "baseline/small/0", "report")
    ]
    return plan(
        [*leaves, graph_step("ppt/pair"), graph_step("prompts/news/ppt/0", parts=(graph_step("data/news"),))], store
    )


def datasets_of(datasets: Any, step: str) -> list[tuple[str, str, int | None]]:
    return [(item.name, item.context, item.num_rows) for item in datasets(step)]


def test_datasets_are_the_sets_that_the_step_reads(planned: Plan) -> None:
    datasets = Datasets(planned, FakeStore({"data/films": manifest("data/films")}))  # type: ignore[arg-type]
    train, unlabeled, test = (
        ("films/train", "train", 32), ("films/unlabeled", "unlabeled", 1000), ("films/test", "test", 500)
    )  # fmt: skip
    assert datasets_of(datasets, "data/films") == datasets_of(datasets, "pet/review/0") == [train, unlabeled, test]
    assert datasets_of(datasets, "zero_shot/review") == [test]
    assert datasets_of(datasets, "distill/small/0") == [unlabeled, test]
    assert datasets_of(datasets, "baseline/small/0") == [train, test], "the dev set is empty"
    assert (
        datasets_of(datasets, "report") == datasets_of(datasets, "ppt/pair") == datasets_of(datasets, "unknown") == []
    )
    (dataset,) = datasets("zero_shot/review")
    assert (dataset.digest, dataset.address) == ("t" * 64, f"/store/data/films/{'f' * 64}/files/test.jsonl")


def test_datasets_appear_when_their_step_is_committed(planned: Plan) -> None:
    results = FakeStore()
    datasets = Datasets(planned, results)  # type: ignore[arg-type]
    assert datasets_of(datasets, "prompts/news/ppt/0") == []
    results["data/news"] = manifest("data/news")
    assert [name for name, _, _ in datasets_of(datasets, "prompts/news/ppt/0")] == ["news/train", "news/test"]
    assert {item.name for item in datasets.all()} == {"news/train", "news/unlabeled", "news/test"}
