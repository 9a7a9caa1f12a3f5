"""Tests of the split stage of regression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.regression.examples import load_examples
from stages.regression.splits import stage as splits
from stages.regression.splits.config import RegressionData, RegressionSplitsConfig
from tests.support.regression_data import reviews, stars_task
from tests.support.stage_runs import run


def source(path: Path, count: int, seed: int) -> Source:
    rows = [{"review": item.fields["text"], "stars": item.value} for item in reviews(count, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(asset=str(path), fields={"text": "review"}, label="stars")


def test_sets_are_sampled_and_written(tmp_path: Path) -> None:
    train, test = source(tmp_path / "train.jsonl", 20, 0), source(tmp_path / "test.jsonl", 9, 1)
    data = RegressionData(train=train, test=test, train_size=8)
    result = run(splits, RegressionSplitsConfig(task=stars_task("bert"), data=data), splits.Inputs(), tmp_path / "out")
    train_set, dev_set, test_set = (
        load_examples(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "dev", "test")
    )
    assert (len(train_set), len(dev_set), len(test_set)) == (8, 0, 9)
    assert (result.num_train, result.num_dev, result.num_test) == (8, 0, 9)
    assert result.mean_value == pytest.approx(sum(item.value or 0 for item in train_set) / 8)
    texts = {item.fields["text"] for item in train_set}
    assert result.num_test_seen == sum(item.fields["text"] in texts for item in test_set)


def test_a_set_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    data = RegressionData(
        train=source(tmp_path / "a.jsonl", 3, 0), test=source(tmp_path / "b.jsonl", 3, 1), train_size=9
    )
    with pytest.raises(DataError, match="train_size is 9, but the file has 3 examples"):
        splits.sample_splits(RegressionSplitsConfig(task=stars_task("bert"), data=data))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"label": None}, "label is not set"), ({"group": "author"}, "group is for classification")],
)
def test_a_source_without_values_or_with_other_keys_is_an_error(
    change: dict[str, str | None], words: str, tmp_path: Path
) -> None:
    good = source(tmp_path / "a.jsonl", 3, 0)
    with pytest.raises(ValidationError, match=words):
        RegressionData(train=Source(**{**good.model_dump(), **change}), test=good)
