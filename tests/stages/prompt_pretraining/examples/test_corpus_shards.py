"""Tests of the index of a corpus in shards, the allocation of examples, and the blocks of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.common.errors import DataError
from stages.prompt_pretraining.examples.corpus_shards import ShardIndex, allocate_examples, blocks, shard_indexer
from stages.prompt_pretraining.formats import CorpusRequirements
from tests.support.corpus_shards import SIZES, corpus, document
from tests.support.small_models import write_lines

ONE = CorpusRequirements(documents=2, sentences=3)


def indices_of(folder: Path, **settings: Any) -> list[ShardIndex]:
    config = corpus(folder, **settings)
    return [shard_indexer(config, 3)(path.name.partition(".")[0]) for path in sorted(folder.iterdir())]


def test_examples_are_allocated_in_proportion_to_documents(shards: Path) -> None:
    plan = allocate_examples(indices_of(shards), ONE, 70, "this test")
    assert [(part.shard, part.num_documents, part.example_range) for part in plan.parts] == [
        ("part-0", 12, range(24)), ("part-1", 3, range(24, 30)), ("part-3", 20, range(30, 70)),
    ]  # fmt: skip
    assert (plan.small, plan.num_documents, plan.num_duplicates) == (("part-2",), 35, 0)
    assert plan.num_read == sum(SIZES) + len(SIZES)
    few = allocate_examples(indices_of(shards), ONE, 2, "this test")
    assert sum(len(part.example_range) for part in few.parts) == 2


def test_first_of_equal_documents_is_used(shards: Path) -> None:
    rows = [document(30), document(3).upper(), document(99)]
    write_lines(shards / "part-2.jsonl", [{"text": text} for text in (*rows, *rows)])
    plan = allocate_examples(indices_of(shards), ONE, 100, "this test")
    assert {part.shard: part.num_documents for part in plan.parts} == {
        "part-0": 12, "part-1": 3, "part-2": 2, "part-3": 19,
    }  # fmt: skip
    assert plan.num_duplicates == 5
    assert plan.num_documents == 36
    texts = [text for block in blocks(corpus(shards), 2, plan.parts[2]) for text in block.texts]
    assert texts == [document(30), document(99)]


def test_blocks_have_at_most_a_window_and_at_least_min_documents(shards: Path) -> None:
    last = allocate_examples(indices_of(shards), ONE, 70, "this test").parts[2]
    all_blocks = list(blocks(corpus(shards, window=7), 2, last))
    assert [len(block.texts) for block in all_blocks] == [6, 7, 7]
    assert [block.example_range for block in all_blocks] == [range(30, 42), range(42, 56), range(56, 70)]
    assert [text for block in all_blocks for text in block.texts] == [document(number) for number in range(16, 36)]
    assert [len(block.texts) for block in blocks(corpus(shards, window=7), 6, last)] == [6, 7, 7]
    assert [len(block.texts) for block in blocks(corpus(shards, window=7), 7, last)] == [10, 10]


def test_shortened_shard_raises(shards: Path) -> None:
    last = allocate_examples(indices_of(shards), ONE, 70, "this test").parts[2]
    write_lines(shards / "part-3.jsonl", [{"text": document(number)} for number in range(18)])
    with pytest.raises(DataError, match=r"part-3 had 20 documents, but 1\d are left"):
        list(blocks(corpus(shards), 2, last))
