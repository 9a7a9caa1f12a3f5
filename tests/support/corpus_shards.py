"""A small corpus in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from stages.common.data.config import CorpusConfig, Source
from tests.support.small_models import write_lines

WORDS = ("warm", "clever", "dull", "bad")
SIZES = (12, 3, 1, 20)
"""Documents of the four shards. The third has too few for all formats except single."""


def document(number: int) -> str:
    """Returns four sentences of eight words."""
    return " ".join(f"The {word} film number {number} was {word} again." for word in WORDS)


def write_shards(tmp_path: Path) -> Path:
    """Writes a corpus in four shards of different sizes, one of them parquet, with short texts in between."""
    folder = tmp_path / "shards"
    folder.mkdir()
    first = 0
    for number, size in enumerate(SIZES):
        rows = [{"text": document(first + row)} for row in range(size)]
        first += size
        rows.insert(1, {"text": "Too short."})
        if number == 1:
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part-1.parquet")
        else:
            write_lines(folder / f"part-{number}.jsonl", rows)
    return folder


def corpus(folder: Path, **settings: Any) -> CorpusConfig:
    values = {"num_examples": 40, "max_sentence_words": 8, "window": 5}
    return CorpusConfig(source=Source(asset=str(folder)), **values | settings)
