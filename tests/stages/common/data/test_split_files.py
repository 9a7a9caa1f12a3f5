"""Tests of split files."""

from __future__ import annotations

from pathlib import Path

from stages.common.examples import Example, load_examples, write_examples

ROWS = [
    ("A warm film, and “clever” too.", "fresh"),
    ('He said "dull", twice', "rotten"),
    ("Größe, 映画 and 🎬", "fresh"),
]
EXPECTED = [Example(str(number), {"text": text}, label) for number, (text, label) in enumerate(ROWS)]


def test_written_examples_are_loaded_unchanged(tmp_path: Path) -> None:
    examples = [*EXPECTED, Example("last", {"a": "line\nbreak\u2028", "b": ""}), Example("q", {"a": "x"}, "no", "7")]
    write_examples(tmp_path / "x.jsonl", examples)
    assert load_examples(tmp_path / "x.jsonl") == examples


def test_examples_without_a_group_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"uid": "1", "fields": {"text": "x"}, "label": "no"}\n')
    assert load_examples(tmp_path / "x.jsonl") == [Example("1", {"text": "x"}, "no")]
