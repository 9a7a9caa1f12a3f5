"""The file in which texts get their labels: a CSV or JSON lines file with a column per field, and `label`.

`clozeline select` adds rows without labels, a person or the page of `clozeline label` fills them in, and a run reads
them as `data.annotated`. Every write replaces the file as a whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.common.config import MULTI_LABEL
from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.data.sources import as_text
from stages.common.data.text_keys import text_key
from stages.common.errors import InputError
from stages.common.patterns.config import Task

LABEL_COLUMN = "label"
ENDINGS = (".csv", ".jsonl")


def check_one_label(task: Task) -> None:
    """Checks that a text of a task has one label, as a row of a label file.

    Raises:
        InputError: it has any number of labels.
    """
    if task.problem_type == MULTI_LABEL:
        raise InputError(
            "label files have one label per text, but a text of the task has several.",
            "Add texts with lists of labels to the file of data.train.",
            key="task.problem_type",
        )


@dataclass(slots=True)
class LabelFile:
    """The rows of a label file, in order.

    Args:
        path: The file; it may not exist yet.
        fields: The columns of texts.
        rows: Column -> value, each with `label`, which is empty if the text has none.
    """

    path: Path
    fields: tuple[str, ...]
    rows: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, fields: Sequence[str] | None = None) -> LabelFile:
        """Reads a file; one that does not exist has no rows.

        Args:
            path: The file.
            fields: The columns of texts. None: all columns except `label`.

        Raises:
            InputError: the file has another format, or lacks a column.
        """
        if path.suffix not in ENDINGS:
            raise InputError(
                f"{path} is neither CSV nor JSON lines.", f"Use a name that ends in {' or '.join(ENDINGS)}."
            )
        if not path.exists():
            if fields is None:
                raise InputError(f"{path} does not exist.", "Write it: clozeline select RECIPE.")
            return cls(path, tuple(fields))
        located = list(read_rows(Source(asset=str(path))))
        columns = list(dict.fromkeys(str(name) for _, row in located for name in row))
        fields = tuple(name for name in columns if name != LABEL_COLUMN) if fields is None else tuple(fields)
        missing = [name for name in (*fields, LABEL_COLUMN) if name not in columns]
        if missing or not fields:
            raise InputError(
                f"{path} has no column {(missing or ['text'])[0]!r}.",
                f"Its columns must be {', '.join((*fields, LABEL_COLUMN))}.",
            )
        rows = [
            {name: as_text(row.get(name)) for name in dict.fromkeys((*columns, LABEL_COLUMN))} for _, row in located
        ]
        return cls(path, fields, rows)

    @property
    def num_labeled(self) -> int:
        """Number of rows with a label."""
        return sum(bool(row[LABEL_COLUMN].strip()) for row in self.rows)

    def keys(self) -> set[str]:
        """Returns the keys of its texts, by which texts are compared."""
        return {self.key(row) for row in self.rows}

    def key(self, row: Mapping[str, str]) -> str:
        """Returns the key of the texts of a row."""
        return text_key(row[name] for name in self.fields)

    def add(self, fields: Mapping[str, str]) -> None:
        """Appends a text without a label."""
        self.rows.append({**{name: fields[name] for name in self.fields}, LABEL_COLUMN: ""})

    def write(self) -> None:
        """Replaces the file."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row)) or [*self.fields, LABEL_COLUMN]
        stream = io.StringIO()
        if self.path.suffix == ".csv":
            writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        else:
            for row in self.rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        temporary = self.path.with_name(f".{self.path.name}.part")
        temporary.write_text(stream.getvalue(), encoding="utf-8")
        temporary.replace(self.path)
