"""Tests of the split stage of token-level tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.token_level.splits import stage as splits
from stages.token_level.splits.config import TokenLevelData, TokenLevelSplitsConfig
from stages.token_level.splits.stage import sample_splits
from tests.support.stage_runs import run
from tests.support.token_level_data import ENTITIES


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A file with 20 tagged texts."""
    rows = [{"tokens": ["film", str(number)], "tags": ["B-WORK", "O"]} for number in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(asset=str(tmp_path / "a.jsonl"), fields={"words": "tokens"}, label="tags")


def test_sample_depends_on_the_seed_and_overlaps_are_counted(source: Source, tmp_path: Path) -> None:
    data = TokenLevelData(train=source, test=source, train_size=5, test_size=10)

    def sample(seed: int, name: str) -> tuple[Any, bytes]:
        config = TokenLevelSplitsConfig(task=ENTITIES, data=data, seed=seed)
        result = run(splits, config, splits.Inputs(), tmp_path / name)
        return result, (tmp_path / name / "train.jsonl").read_bytes()

    result, train = sample(1, "first")
    assert (result.num_train, result.num_dev, result.num_test) == (5, 0, 10)
    assert result.label_counts == {"B-WORK": 5, "O": 5}
    assert 0 < result.num_test_seen <= 5
    assert sample(1, "again")[1] == train != sample(2, "other")[1]


def test_train_size_above_the_file_raises(source: Source) -> None:
    data = TokenLevelData(train=source, test=source, train_size=30)
    with pytest.raises(DataError, match=r"train_size is 30, but the file has 20 examples") as caught:
        sample_splits(TokenLevelSplitsConfig(task=ENTITIES, data=data, seed=1))
    assert caught.value.key == "data.train_size"


def test_missing_field_raises(source: Source) -> None:
    data = TokenLevelData(train=source.model_copy(update={"fields": {"text": "tokens"}}), test=source)
    with pytest.raises(DataError, match=r"the field 'words'"):
        sample_splits(TokenLevelSplitsConfig(task=ENTITIES, data=data, seed=1))
