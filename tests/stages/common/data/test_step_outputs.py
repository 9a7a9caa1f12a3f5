"""Tests of logits and losses that a step writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.common.data.step_outputs import (
    LogitRows,
    aligned,
    downsample,
    read_logits,
    read_losses,
    write_logits,
    write_losses,
)
from stages.common.errors import DataError
from stages.common.examples import Example
from tests.support.stage_runs import LABELS


def test_write_losses_skips_a_single_loss(tmp_path: Path) -> None:
    write_losses(tmp_path, [0.5, 0.25])
    assert read_losses(tmp_path) == [0.5, 0.25]
    empty = tmp_path / "other"
    empty.mkdir()
    write_losses(empty, [0.5])
    assert read_losses(empty) == [] and not list(empty.iterdir())


def test_downsample_keeps_length_and_mean() -> None:
    losses = [float(number) for number in range(125)]
    points = downsample(losses, 60)
    assert len(points) <= 60
    assert points[0] == (3, 1.0) and points[-1] == (125, 123.5)
    assert downsample([1.0, 2.0]) == [(1, 1.0), (2, 2.0)]
    assert downsample([]) == []


EXAMPLES = [Example(uid, {"text": uid}) for uid in "abc"]
LOGITS = np.array([[1.0, 0.0], [0.5, 0.25], [-2.0, 3.0]])


@pytest.fixture
def rows(tmp_path: Path) -> LogitRows:
    write_logits(tmp_path / "logits.jsonl", EXAMPLES, LOGITS, LABELS)
    return read_logits(tmp_path / "logits.jsonl", LABELS)


def test_read_logits_returns_uids_and_columns_in_the_order_of_labels(rows: LogitRows) -> None:
    assert rows.uids == ("a", "b", "c")
    assert rows.logits.tolist() == LOGITS.tolist()
    assert read_logits(rows.path, LABELS[::-1]).logits.tolist() == LOGITS[:, ::-1].tolist()


def test_aligned_returns_logits_in_the_order_of_uids(rows: LogitRows) -> None:
    assert aligned(rows, ["a", "b", "c"]).tolist() == LOGITS.tolist()
    assert aligned(rows, ["c", "a", "b"]).tolist() == LOGITS[[2, 0, 1]].tolist()


@pytest.mark.parametrize(
    ("uids", "problem"),
    [
        (["a", "b", "d"], "the uid 'c' occurs in only one of them"),
        (["a", "b"], "the 3 rows of .* do not match 2 examples: the uid 'c'"),
        (["a", "b", "c", "a"], "a uid occurs twice"),
    ],
)
def test_aligned_rejects_other_examples(uids: list[str], problem: str, rows: LogitRows) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        aligned(rows, uids)
    assert "Run the step" in caught.value.remedy
