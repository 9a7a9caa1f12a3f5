"""Reads, writes and combines rows of results, which are JSON lines.

A row is the result of one seed (`"seed": 3`), or the mean of several (`"seeds": [0, 1, 2]`). A mean is stored with its
sample standard deviation (`accuracy_std`). The folder `results` contains the rows of docs/explanation/results.md; the
scripts measure only rows that are missing there.
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
    """Returns all rows of a file. A missing file has no rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, rows: Iterable[Row]) -> None:
    """Appends rows to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def seeds(row: Row) -> Sequence[int]:
    """Returns the seeds of a row."""
    result: Sequence[int] = row.get("seeds") or [row["seed"]]
    return result


@dataclass(frozen=True, slots=True)
class Moments:
    """Number of values, their mean, and the sum of their squared deviations. Two can be added without the values."""

    count: int
    mean: float
    squares: float

    @classmethod
    def of(cls, row: Row, key: str = "accuracy") -> Moments:
        """Returns the moments of one metric of a row."""
        count, std = len(seeds(row)), row.get(f"{key}_std") or 0.0
        return cls(count, row[key], std**2 * (count - 1))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * other.count / count
        return Moments(count, mean, self.squares + other.squares + difference**2 * self.count * other.count / count)

    def percent(self) -> str:
        """Formats mean, sample standard deviation and number of seeds: `77.8 ± 0.6 (5)`."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
        deviation = f" ± {100 * std:.1f}" if std is not None else ""
        return f"{100 * self.mean:.1f}{deviation} ({self.count})"


def combine(rows: Sequence[Row], key: str = "accuracy") -> Moments:
    """Returns the moments of a metric over all rows, which must have different seeds."""
    first, *rest = (Moments.of(row, key) for row in rows)
    return sum(rest, first)
