"""Tests of shards of soft labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.common.data.parquet_shards import write_shards
from stages.common.data.soft_label_shards import confidences, labeled_rows, load_rows
from stages.common.data.text_shards import TextBatch
from stages.common.errors import DataError
from tests.support.small_models import film_example

LABELS = ("rotten", "fresh")
LOGITS = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])


@pytest.fixture
def batch() -> TextBatch:
    return TextBatch("part-0", 0, tuple(film_example(number) for number in range(3)))


def test_rows_are_loaded_with_their_examples(batch: TextBatch, tmp_path: Path) -> None:
    assert sum(write_shards([labeled_rows(batch, LOGITS, LABELS)], {"part-0": 3}, tmp_path)) == 3
    confidence, predicted = confidences(tmp_path, LABELS)
    assert predicted.tolist() == [0, 1, 0]
    assert confidence == pytest.approx(1 / (1 + np.exp([-1.0, -2.0, -3.0])), abs=1e-6)
    rows = list(load_rows(tmp_path, np.array([0, 2]), LABELS))
    assert rows == [(batch.examples[0], (1.0, 0.0)), (batch.examples[2], (3.0, 0.0))]


def test_write_shards_rejects_another_number_of_rows(batch: TextBatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="part-0"):
        list(write_shards([labeled_rows(batch, LOGITS, LABELS)], {"part-0": 4}, tmp_path))
    assert not list(tmp_path.glob("*.parquet"))
