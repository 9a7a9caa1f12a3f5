"""The ensemble of members of different kinds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import write_logits
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import calibrate
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from tests.support.stage_runs import LABELS, Kept, logits_of, run

NAMES = ("pet/review/0", "pet/summary/0", "probe/mini")


@pytest.fixture
def members(film_data: Path, tmp_path: Path) -> tuple[Path, ...]:
    """Three members, each with votes of its own scale and bias, and an accuracy before training."""
    rng = np.random.default_rng(3)
    found = []
    for number, (scale, accuracy) in enumerate([(4.0, 0.5), (1.0, 1.0), (0.3, 0.25)]):
        folder = tmp_path / f"member{number}"
        folder.mkdir()
        for name, file in (("unlabeled", "unlabeled_logits"), ("test", "test_logits")):
            examples = load_examples(film_data / f"{name}.jsonl")
            write_logits(folder / f"{file}.jsonl", examples, rng.normal(size=(len(examples), 2)) * scale, LABELS)
        neutral = [Example(str(row), {"text": "N/A"}) for row in range(3)]
        write_logits(folder / "content_free_logits.jsonl", neutral, np.array([[scale, 0.0]] * 3), LABELS)
        about = {"train_accuracy_before_training": accuracy, "num_labeled": 8, "trainable_parameters": 10 + number}
        (folder / "result.json").write_text(json.dumps(about | {"test": {"accuracy": 0.5}}))
        found.append(folder)
    return tuple(found)


def config(**settings: object) -> SoftLabelsConfig:
    groups = ("pet", "pet", "probe/mini")
    return SoftLabelsConfig(labels=LABELS, members=NAMES, groups=groups, ensemble=EnsembleConfig(**settings))


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("accuracy", [0.5 / 1.75, 1 / 1.75, 0.25 / 1.75]),
        ("balanced", [0.25, 0.25, 0.5]),
    ],
)
def test_soft_labels_are_the_weighted_mean_of_the_members(
    weights: str, share: list[float], members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    recorder = Kept()
    result = run(soft_labels, config(weights=weights), inputs, tmp_path / "out", recorder)
    assert result.weights == pytest.approx(share, abs=1e-6)
    assert {"weights", "disagreements", "per_class"} <= set(recorder.tables)
    assert set(recorder.figures) == {"agreement", "entropy", "confusion"}
    assert [row["weight"] for row in recorder.tables["weights"]] == pytest.approx(share, abs=1e-6)
    assert 0 < recorder.metrics["unlabeled/entropy"] < 1
    for written, file in (("soft_labels", "unlabeled_logits"), ("test_logits", "test_logits")):
        expected = sum(weight * logits_of(member, file) for member, weight in zip(members, share, strict=True))
        assert logits_of(tmp_path / "out", written) == pytest.approx(expected, abs=2e-5)
    mixed = logits_of(tmp_path / "out", "soft_labels")
    gold = [item.label for item in load_examples(film_data / "unlabeled_gold.jsonl")]
    right = [LABELS[guess] == label for guess, label in zip(mixed.argmax(axis=1), gold, strict=True)]
    assert result.unlabeled.accuracy == pytest.approx(np.mean(right), abs=1e-6)
    assert (result.num_labeled, result.num_unlabeled, result.trainable_parameters) == (8, 10, 33)
    rows = [json.loads(line) for line in (tmp_path / "out" / "soft_labels.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == [item.uid for item in load_examples(film_data / "unlabeled.jsonl")]
    assert {row["label"] for row in rows} == {None}, "no gold label reaches the student"


@pytest.mark.parametrize(
    ("calibration", "reference"), [("contextual", "content_free_logits"), ("unlabeled", "unlabeled_logits")]
)
def test_votes_are_calibrated_member_by_member_before_they_are_mixed(
    calibration: str, reference: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    settings = config(calibration=calibration, average="probabilities", temperature=2.0)
    run(soft_labels, settings, inputs, tmp_path / "out")
    votes = [calibrate(logits_of(member), logits_of(member, reference)) / 2 for member in members]
    expected = np.log(np.mean([softmax(vote) for vote in votes], axis=0))
    assert logits_of(tmp_path / "out") == pytest.approx(expected, abs=2e-5)
    plain = np.log(np.mean([softmax(logits_of(member) / 2) for member in members], axis=0))
    assert abs(expected - plain).max() > 0.02


def test_a_pile_without_gold_labels_has_no_score(members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    (film_data / "unlabeled_gold.jsonl").unlink()
    inputs = soft_labels.Inputs(data=film_data, members=members)
    assert run(soft_labels, config(), inputs, tmp_path / "out").unlabeled is None


@pytest.mark.parametrize("file", ["result.json", "unlabeled_logits.jsonl", "test_logits.jsonl"])
def test_a_missing_vote_is_an_error(file: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    (members[1] / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"member1/{file}"):
        run(soft_labels, config(), soft_labels.Inputs(data=film_data, members=members), tmp_path / "out")
