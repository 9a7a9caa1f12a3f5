"""Tests of batches by length."""

from __future__ import annotations

from stages.common.models.batching import batches_by_length, round_up_length


def test_batches_by_length_have_every_row_once_within_the_limit() -> None:
    lengths = [3, 40, 7, 7, 12, 1, 90, 5]
    batches = batches_by_length(lengths, 48)
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert batches[0] == [6], "a row longer than the limit is a separate batch"
    assert all(len(batch) * round_up_length(max(lengths[row] for row in batch)) <= 48 for batch in batches[1:])
    assert batches == [[6], [1], [4, 2, 3], [7, 0, 5]], "12 is padded to 16, so three rows are 48"
