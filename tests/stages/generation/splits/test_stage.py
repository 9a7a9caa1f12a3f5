"""Tests of the split stage of text generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.generation.splits import stage as splits
from stages.generation.splits.config import GenerationData, GenerationSplitsConfig
from stages.generation.splits.stage import sample_splits
from tests.support.small_models import write_lines
from tests.support.stage_runs import run


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A file with 20 articles and summaries."""
    rows = [{"article": f"A text {number}.", "summary": f"Number {number}."} for number in range(20)]
    return Source(asset=str(write_lines(tmp_path / "a.jsonl", rows)), fields={"text": "article"}, label="summary")


def config(data: GenerationData, seed: int = 1) -> GenerationSplitsConfig:
    return GenerationSplitsConfig(task="news", fields=("text",), data=data, seed=seed)


def test_sample_depends_on_the_seed_and_overlaps_are_counted(source: Source, tmp_path: Path) -> None:
    data = GenerationData(train=source, test=source, train_size=5, test_size=10)

    def sample(seed: int, name: str) -> tuple[Any, bytes]:
        result = run(splits, config(data, seed), splits.Inputs(), tmp_path / name)
        return result, (tmp_path / name / "train.jsonl").read_bytes()

    result, train = sample(1, "first")
    assert (result.num_train, result.num_dev, result.num_test) == (5, 0, 10)
    assert 0 < result.num_test_seen <= 5
    assert sample(1, "again")[1] == train != sample(2, "other")[1]


def test_sizes_and_fields_that_do_not_fit_raise(source: Source) -> None:
    with pytest.raises(DataError, match=r"test_size is 30, but the file has 20 examples") as caught:
        sample_splits(config(GenerationData(train=source, test=source, test_size=30)))
    assert caught.value.key == "data.test_size"
    other = source.model_copy(update={"fields": {"table": "article"}})
    with pytest.raises(DataError, match=r"the task news needs the field 'text'") as caught:
        sample_splits(config(GenerationData(train=source, test=other)))
    assert caught.value.key == "data.test.fields"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"label": None}, "test.label is not set"),
        ({"label_map": {"a": "b"}}, "label_map is for classification"),
        ({"id": "article"}, "id is for classification"),
    ],
)
def test_sources_without_targets_or_with_unused_keys_raise(
    settings: dict[str, Any], problem: str, source: Source
) -> None:
    with pytest.raises(ValueError, match=problem):
        GenerationData(train=source, test=source.model_copy(update=settings))
