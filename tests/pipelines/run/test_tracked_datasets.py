"""The data of each step, and what a run was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.steps.plan import Plan, plan
from cluster.store.base import Store
from cluster.store.manifest import FileEntry, Manifest
from pipelines.run import provenance
from pipelines.run.tracked_datasets import Datasets
from tests.support.steps import toy

RESULT = {"num_train": 32, "num_dev": 0, "num_unlabeled": 1000, "num_test": 500}


class Made(dict[str, Manifest]):
    """A store that has these results by step. Only `lookup` and `url` are asked for."""

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
    films = toy("data/films")
    leaves = [
        toy(name, base=films) for name in ("pet/review/0", "zero_shot/review", "distill/0", "baseline/0", "report")
    ]
    return plan([*leaves, toy("ppt/pair"), toy("prompts/news/ppt/0", parts=(toy("data/news"),))], store)


def seen(datasets: Any, step: str) -> list[tuple[str, str, int | None]]:
    return [(item.name, item.context, item.num_rows) for item in datasets(step)]


def test_each_step_shows_the_sets_that_it_reads(planned: Plan) -> None:
    datasets = Datasets(planned, Made({"data/films": manifest("data/films")}))  # type: ignore[arg-type]
    train, pile, test = (
        ("films/train", "train", 32), ("films/unlabeled", "unlabeled", 1000), ("films/test", "test", 500)
    )  # fmt: skip
    assert seen(datasets, "data/films") == seen(datasets, "pet/review/0") == [train, pile, test]
    assert seen(datasets, "zero_shot/review") == [test]
    assert seen(datasets, "distill/0") == [pile, test]
    assert seen(datasets, "baseline/0") == [train, test], "a set without examples is none"
    assert seen(datasets, "report") == seen(datasets, "ppt/pair") == seen(datasets, "unknown") == []
    (found,) = datasets("zero_shot/review")
    assert (found.digest, found.address) == ("t" * 64, f"/store/data/films/{'f' * 64}/files/test.jsonl")


def test_data_is_shown_as_soon_as_it_is_there(planned: Plan) -> None:
    made = Made()
    datasets = Datasets(planned, made)  # type: ignore[arg-type]
    assert seen(datasets, "prompts/news/ppt/0") == []
    made["data/news"] = manifest("data/news")
    assert [name for name, _, _ in seen(datasets, "prompts/news/ppt/0")] == ["news/train", "news/test"]
    assert {item.name for item in datasets.all()} == {"news/train", "news/unlabeled", "news/test"}


# --- what a run was made with ---------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None, "no repository"
    git(tmp_path, "init")
    assert provenance.git_commit(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("two")
    assert provenance.git_commit(tmp_path) == (head, False)
    (tmp_path / "file").write_text("two")
    assert provenance.git_commit(tmp_path) == (head, True)
    inside = tmp_path / "venv"
    inside.mkdir()
    assert provenance.git_commit(inside) is None, "installed within another project"


def test_versions_are_tags() -> None:
    tags = provenance.run_tags()
    assert tags["version.torch"].split(".")[0].isdigit()
    assert "version.python" in tags
