"""Tests of the stage that samples a few labeled examples per class."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.common.errors import DataError
from stages.common.examples import Example, load_examples, write_examples
from stages.learning_curve.train_subsets import stage as train_subsets
from stages.learning_curve.train_subsets.config import TrainSubsetConfig
from stages.learning_curve.train_subsets.stage import sample_per_class
from tests.support.stage_runs import run

LABELS = ("bad", "good")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of a split with 6 labeled examples per class."""
    folder = tmp_path / "data"
    folder.mkdir()
    train = [Example(f"{label}-{n}", {"text": f"{label} {n}"}, label) for n in range(6) for label in LABELS]
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "test.jsonl", [Example("t", {"text": "t"}, "bad")])
    write_examples(folder / "unlabeled.jsonl", [Example("u", {"text": "u"})])
    return folder


def subset(data: Path, shots: int, seed: int = 0) -> list[Example]:
    out = data.parent / f"{shots}-{seed}"
    config = TrainSubsetConfig(labels=LABELS, shots=shots, seed=seed)
    result = run(train_subsets, config, train_subsets.Inputs(data=data), out)
    examples = load_examples(out / "train.jsonl")
    assert result.num_train == len(examples) == 2 * shots
    for name in ("test.jsonl", "unlabeled.jsonl"):
        assert (out / name).read_bytes() == (data / name).read_bytes()
    return examples


def test_larger_sets_include_smaller_ones_of_the_same_seed(data: Path) -> None:
    two, four, six = ({item.uid for item in subset(data, shots)} for shots in (2, 4, 6))
    assert two < four < six
    assert {item.uid for item in subset(data, 2, seed=1)} != two
    assert sorted(item.label or "" for item in subset(data, 3)) == ["bad"] * 3 + ["good"] * 3


def test_class_with_too_few_examples_raises(data: Path) -> None:
    config = TrainSubsetConfig(labels=LABELS, shots=7, seed=0)
    with pytest.raises(DataError, match=r"7 labeled examples per class are required, but 'bad' has 6") as caught:
        sample_per_class(load_examples(data / "train.jsonl"), config)
    assert caught.value.key == "learning_curve.shots"
