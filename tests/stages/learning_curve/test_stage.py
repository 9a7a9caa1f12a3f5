"""Few labelled texts out of many, and the curve of what was measured with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.common.data.split_files import load_examples, write_examples
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.protocols import NullRecorder
from stages.learning_curve import stage as learning_curve
from stages.learning_curve.config import FIGURE_FILE, LearningCurveConfig
from stages.learning_curve.train_subsets import stage as label_subsets
from stages.learning_curve.train_subsets.config import TrainSubsetConfig
from stages.learning_curve.train_subsets.stage import sample_per_class

LABELS = ("bad", "good")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of a split: 6 labelled texts a class."""
    folder = tmp_path / "data"
    folder.mkdir()
    train = [Example(f"{label}-{n}", {"text": f"{label} {n}"}, label) for n in range(6) for label in LABELS]
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "test.jsonl", [Example("t", {"text": "t"}, "bad")])
    write_examples(folder / "unlabeled.jsonl", [Example("u", {"text": "u"})])
    return folder


def subset(data: Path, shots: int, seed: int = 0) -> list[Example]:
    out = data.parent / f"{shots}-{seed}"
    out.mkdir()
    config = TrainSubsetConfig(labels=LABELS, shots=shots, seed=seed)
    found = label_subsets.run(config, label_subsets.Inputs(data=data), out, NullRecorder(), InProcessEngine())
    examples = load_examples(out / "train.jsonl")
    assert found.num_train == len(examples) == 2 * shots
    for name in ("test.jsonl", "unlabeled.jsonl"):
        assert (out / name).read_bytes() == (data / name).read_bytes()
    return examples


def test_smaller_sets_lie_in_larger_ones_and_other_seeds_choose_other_texts(data: Path) -> None:
    two, four, six = ({item.uid for item in subset(data, shots)} for shots in (2, 4, 6))
    assert two < four < six
    assert {item.uid for item in subset(data, 2, seed=1)} != two
    assert sorted(item.label or "" for item in subset(data, 3)) == ["bad"] * 3 + ["good"] * 3


def test_a_class_with_too_few_texts_is_named(data: Path) -> None:
    config = TrainSubsetConfig(labels=LABELS, shots=7, seed=0)
    with pytest.raises(DataError, match=r"7 labelled texts a class were asked for, and 'bad' has 6") as caught:
        sample_per_class(load_examples(data / "train.jsonl"), config)
    assert caught.value.key == "learning_curve.shots"


def test_points_are_means_and_deviations_few_labels_first(tmp_path: Path) -> None:
    measured = []
    for number, (size, accuracy) in enumerate([(16, 0.8), (16, 0.9), (4, 0.5), (4, 0.7), (4, 0.6)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"num_labeled": size, "test": {"accuracy": accuracy}}))
        measured.append(folder)
    config = LearningCurveConfig(methods=("baseline",) * 4 + ("student",))
    inputs = learning_curve.Inputs(measured=tuple(measured))
    found = learning_curve.run(config, inputs, tmp_path, NullRecorder(), InProcessEngine()).points
    assert [(point.method, point.num_labeled, point.num_seeds) for point in found] == [
        ("baseline", 4, 2), ("baseline", 16, 2), ("student", 4, 1),
    ]  # fmt: skip
    assert [point.accuracy for point in found] == [0.6, 0.85, 0.6]
    assert found[0].accuracy_std == pytest.approx(0.141421)
    assert found[2].accuracy_std is None
    assert (tmp_path / FIGURE_FILE).read_bytes().startswith(b"\x89PNG")
