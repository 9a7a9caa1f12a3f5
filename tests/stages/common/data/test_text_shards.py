"""Tests of shards of unlabeled examples."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data.config import Source
from stages.common.data.text_shards import count_examples, read_batches, shard_files
from stages.common.errors import DataError
from tests.support.small_models import write_lines


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 4, 1 and 5 examples, one of them parquet; and a file that is not a shard."""
    rows = [{"text": f"text {number}"} for number in range(10)]
    folder = tmp_path / "shards"
    folder.mkdir()
    write_lines(folder / "part-0.jsonl", rows[:4])
    parquet.write_table(pyarrow.Table.from_pylist(rows[4:5]), folder / "part-1.parquet")
    write_lines(folder / "part-2.jsonl", rows[5:])
    (folder / "_SUCCESS").touch()
    return folder


def test_shard_files_rejects_equal_names_and_no_file(shards: Path) -> None:
    with pytest.raises(DataError, match=r"shards/nothing-\* matches no file"):
        shard_files(str(shards / "nothing-*"))
    write_lines(shards / "part-1.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"part-1\.parquet"):
        shard_files(str(shards))


def test_count_examples_accepts_empty_shards_but_not_only_empty_ones(shards: Path) -> None:
    (shards / "part-0.jsonl").write_text("")
    assert count_examples(Source(asset=str(shards))) == {"part-0": 0, "part-1": 1, "part-2": 5}
    for name in ("part-1.parquet", "part-2.jsonl"):
        (shards / name).unlink()
    with pytest.raises(DataError, match="no example"):
        count_examples(Source(asset=str(shards)))


def test_read_batches_keeps_order_and_uids(shards: Path) -> None:
    batches = list(read_batches(Source(asset=str(shards)), 2, "part-2"))
    assert [(batch.shard, batch.first, len(batch.examples)) for batch in batches] == [
        ("part-2", 0, 2), ("part-2", 2, 2), ("part-2", 4, 1),
    ]  # fmt: skip
    assert [item.uid for batch in batches for item in batch.examples] == [f"part-2-{number}" for number in range(5)]
