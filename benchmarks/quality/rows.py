"""Rows of results: JSON lines, one for a seed (`"seed": 3`) or for several of which only the figures together are kept.

A row for several has `"seeds": [0, 1, 2]`, and beside each figure its sample standard deviation (`accuracy_std`). The
folder `measured` holds what was measured on the way to docs/results.md; the scripts measure only what is missing there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """All rows of a file; none, if it is not there yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows at the end."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def seeds(row: Row) -> Sequence[int]:
    """The seeds of a row."""
    found: Sequence[int] = row.get("seeds") or [row["seed"]]
    return found


@dataclass(frozen=True, slots=True)
class Moments:
    """`count` values, their mean, and the sum of their squared distances from it; adds up without the values."""

    count: int
    mean: float
    squares: float

    @classmethod
    def of(cls, row: Row, key: str = "accuracy") -> Moments:
        """Those of a row's figure."""
        count, std = len(seeds(row)), row.get(f"{key}_std") or 0.0
        return cls(count, row[key], std**2 * (count - 1))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.squares + other.squares + apart**2 * self.count * other.count / count)

    def percent(self) -> str:
        """`77.8 ± 0.6 (5)`: mean, sample standard deviation, seeds."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
        spread = f" ± {100 * std:.1f}" if std is not None else ""
        return f"{100 * self.mean:.1f}{spread} ({self.count})"


def together(rows: Sequence[Row], key: str = "accuracy") -> Moments:
    """The figure over all rows, each of seeds of its own."""
    first, *rest = (Moments.of(row, key) for row in rows)
    return sum(rest, first)
