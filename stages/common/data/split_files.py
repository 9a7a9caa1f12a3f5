"""Writes and loads the sets of a task as JSON lines, the files that the split stage leaves for later steps.

Most stages read these files only, so that a change in how sources are read retrains nothing that has its split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from stages.common.examples import Example


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes one JSON object a line: uid, fields, label, group."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            row = {"uid": example.uid, "fields": dict(example.fields), "label": example.label, "group": example.group}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[Example]:
    """Reads what `write_examples` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return [Example(row["uid"], row["fields"], row["label"], row.get("group")) for row in rows]
