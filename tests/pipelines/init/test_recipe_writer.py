"""Split sizes of a new recipe."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.init.labeled_file import LabeledData
from pipelines.init.recipe_writer import choose_split_sizes
from pipelines.schema.config import PipelineConfig
from stages.common.errors import DataError
from tests.support.init_files import TOPICS, draw_splits, write_csv

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 4), None),
        ((4, 300), None),
        ((9, 9, 9, 9, 9, 9, 9), None),
        ((5, 2000), None),
        ((1500, 1500), (16, 1000, 500)),
    ],
)
def test_split_sizes_can_be_draw_splits(
    start: Callable[..., PipelineConfig], counts: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    names = [*TOPICS, "case", "topic", "text", "tone"][: len(counts)]
    rows = [(f"the {name} of case {i}", name) for name, count in zip(names, counts, strict=True) for i in range(count)]
    config = start(write_csv("some.csv", ("text", "label"), rows))
    splits = draw_splits(config)
    assert Counter(item.label for item in splits.train) == dict.fromkeys(names, config.data.shots)
    assert len(splits.unlabeled) == config.data.unlabeled_size >= 1
    assert len(splits.test) == config.data.test_size >= 1
    if expected:
        assert (config.data.shots, config.data.unlabeled_size, config.data.test_size) == expected


def test_given_sizes_are_not_reduced() -> None:
    found = LabeledData(
        asset="x", fields={}, label="y", labels=("a", "b"), label_map={}, counts={"a": 30, "b": 30}, unlabeled={},
        num_empty=0, texts=[],
    )  # fmt: skip
    assert choose_split_sizes(found, 20, None).shots == 20
    assert choose_split_sizes(found, None, 41).test == 41
    with pytest.raises(DataError, match="no unlabeled data is left"):
        choose_split_sizes(found, 20, 20)
