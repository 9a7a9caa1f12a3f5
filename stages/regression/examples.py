"""Reads and writes examples of regression: the fields of a text, and the number that is right for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common.data.config import Source
from stages.common.data.sources import column, filtered_rows
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.regression.config import RegressionTask


@dataclass(frozen=True, slots=True)
class RegressionExample:
    """A text and its value; None if it is not known."""

    uid: str
    """Unique in its set."""
    fields: dict[str, str]
    """Field name -> text."""
    value: float | None = None

    @property
    def text(self) -> Example:
        """The text without its value."""
        return Example(self.uid, self.fields)


def read_examples(source: Source, task: RegressionTask, prefix: str = "") -> list[RegressionExample]:
    """Reads every example of a source, in file order.

    Args:
        source: The file. `fields` are the texts; the column `label` has the values.
        task: Gives the range of the values.
        prefix: Start of the uids.

    Raises:
        DataError: a field is empty or not text, or a value is not a number in the range; names file and line.
    """
    examples: list[RegressionExample] = []
    assert source.label is not None
    for number, (location, row) in enumerate(filtered_rows(source)):
        if source.limit is not None and len(examples) >= source.limit:
            break
        fields = {name: column(row, column_name, location) for name, column_name in source.fields.items()}
        empty = [name for name, text in fields.items() if not isinstance(text, str) or not text.strip()]
        if empty and source.drop_empty:
            continue
        if empty:
            raise DataError(
                f"{location}: the field {empty[0]!r} is empty or not a text.",
                "Fix it, or set drop_empty: true to skip rows with an empty field.",
            )
        value = _value(column(row, source.label, location), source.label, location)
        lowest, highest = task.range
        if not lowest <= value <= highest:
            raise DataError(
                f"{location}: {source.label!r} is {value:g}, which is not between {lowest:g} and {highest:g}.",
                "Widen the range of the task, or skip such rows with filter.",
            )
        examples.append(RegressionExample(f"{prefix}{number}", fields, value))
    if not examples:
        raise DataError(f"{source.asset} has no example.", "Check filter: and limit:, or use another file.")
    return examples


def _value(cell: Any, name: str, location: str) -> float:
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{location}: {name!r} is {cell!r}, not a number.", "Write a number, such as 3.5.")
    return value


def write_examples(path: Path, examples: Sequence[RegressionExample]) -> None:
    """Writes one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[RegressionExample]:
    """Reads what `write_examples` wrote."""
    with path.open(encoding="utf-8") as file:
        return [RegressionExample(**json.loads(line)) for line in file]
