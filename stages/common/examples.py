"""Plain values that all stages exchange: an example of a classification task, and a row of a data file.

The split stage writes the sets of a task as JSON lines. Most stages read only these files, so a change in the readers
of sources does not retrain them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Label = str | tuple[str, ...]
"""The label of an example or, in multi-label classification, its labels in the order of the task."""


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a split: its fields and, if known, its label."""

    uid: str
    """Unique in its split."""
    fields: Mapping[str, str]
    """Field name -> text."""
    label: Label | None = None
    """None if it is unknown. An empty tuple: it has none of the labels."""
    question: str | None = None
    """Examples of one question are answers to it, as in MultiRC."""
    group: str | None = None
    """Examples of one group, such as an author, are on one side of every split."""


OPTIONAL = ("question", "group")
"""Attributes of an example that most data does not have, in their order."""
Row = tuple[str, Mapping[str, Any]]
"""A row of a file: its location ("file, line 7") and its values by column."""


def label_indices(examples: Sequence[Example], labels: Sequence[str]) -> list[int]:
    """Returns the index of the gold label of each example, [n].

    Raises:
        ValueError: an example has no label, several, or one that is not in `labels`.
    """
    return [labels.index(item.label) for item in examples]


def one_label(label: Label | None) -> str:
    """Returns the label of an example with at most one label; empty if it is unknown.

    Raises:
        ValueError: the example has a set of labels.
    """
    if isinstance(label, tuple):
        raise ValueError(f"{label!r} is not one label.")
    return label or ""


def label_set(label: Label | None) -> tuple[str, ...]:
    """Returns the labels of an example: one, any number of them, or none if they are unknown."""
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label,)


def table_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Returns one row per example, with its fields and its label, for `Recorder.log_table`."""
    return [{**item.fields, "label": item.label} for item in examples]


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes one JSON object per line: uid, fields, label, and question and group if they are known."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            row: dict[str, Any] = {"uid": example.uid, "fields": dict(example.fields), "label": example.label}
            row |= {name: value for name in OPTIONAL if (value := getattr(example, name)) is not None}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[Example]:
    """Reads a file of `write_examples`."""
    with path.open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return [Example(row["uid"], row["fields"], read_label(row["label"]), *map(row.get, OPTIONAL)) for row in rows]


def read_label(value: Any) -> Label | None:
    """Returns a label from its JSON value, where several labels are a list."""
    label: Label | None = tuple(value) if isinstance(value, list) else value
    return label
