"""Reads and writes examples of text generation: fields of an input, and the texts that are right for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common.data.config import Source
from stages.common.data.sources import column, filtered_rows
from stages.common.errors import DataError
from stages.common.examples import Example


@dataclass(frozen=True, slots=True)
class GenerationExample:
    """An input and its references. Without references if they are not known."""

    uid: str
    """Unique in its set."""
    fields: dict[str, str]
    references: tuple[str, ...] = ()
    """Right outputs. The first one is the target in training."""

    @property
    def input(self) -> Example:
        """The input without its references."""
        return Example(self.uid, self.fields)


def read_examples(source: Source, prefix: str = "") -> list[GenerationExample]:
    """Reads every example of a source, in file order.

    Args:
        source: The file. `fields` are the inputs; the column `label` has the target, or a list of right texts.
        prefix: Start of the uids.

    Raises:
        DataError: a field or a target is empty or not text; names file and line.
    """
    examples: list[GenerationExample] = []
    for number, (location, row) in enumerate(filtered_rows(source)):
        if source.limit is not None and len(examples) >= source.limit:
            break
        fields = {name: column(row, column_name, location) for name, column_name in source.fields.items()}
        bad = [name for name, value in fields.items() if not _is_text(value)]
        if source.drop_empty and any(_is_empty(value) for value in fields.values()):
            continue
        if bad:
            raise DataError(
                f"{location}: the field {bad[0]!r} is empty or not a text.",
                "Fix it, or set drop_empty: true to skip rows with an empty field.",
            )
        assert source.label is not None
        references = _references(column(row, source.label, location), source.label, location)
        examples.append(GenerationExample(f"{prefix}{number}", fields, references))
    if not examples:
        raise DataError(f"{source.asset} has no example.", "Check filter: and limit:, or use another file.")
    return examples


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _references(value: Any, name: str, location: str) -> tuple[str, ...]:
    if hasattr(value, "tolist"):  # numpy's arrays, which parquet files have
        value = value.tolist()
    texts = value if isinstance(value, list | tuple) else [value]
    if not texts or not all(map(_is_text, texts)):
        raise DataError(
            f"{location}: the target {name!r} is empty or not a text.",
            "Write a text or a list of texts, or skip such rows with filter.",
        )
    return tuple(text.strip() for text in texts)


def write_examples(path: Path, examples: Sequence[GenerationExample]) -> None:
    """Writes one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[GenerationExample]:
    """Reads what `write_examples` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [GenerationExample(row["uid"], row["fields"], tuple(row["references"])) for row in rows]
