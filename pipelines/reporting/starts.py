"""Starts of soft prompts side by side: where a task's prompts start in several ways, how they score and how they learn.

PPT's claim is that the start decides where labels are few ([Gu et al., 2022](https://arxiv.org/abs/2109.04332)).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.report import Row

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Step name -> (optimizer step, loss) of a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A method of a task: what its prompts start from, accuracy on the test set over seeds, and its mean loss."""

    task: str
    method: str
    start: str
    accuracy: float
    accuracy_std: float | None
    num_seeds: int
    first_loss: float | None
    last_loss: float | None
    losses: tuple[tuple[int, float], ...]


def starts(rows: Sequence[Row], named: Mapping[str, str], curves: Mapping[str, Curves]) -> tuple[Start, ...]:
    """The methods of every task whose prompts start in more than one way; nothing where there is nothing to compare.

    Args:
        rows: The leaderboard.
        named: Method -> what it starts from.
        curves: Row -> losses of its steps.
    """
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "prompt" and method_of(row.name) in named:
            tasks.setdefault(row.task, []).append(row)
    several = [mine for mine in tasks.values() if len({named[method_of(row.name)] for row in mine}) > 1]
    return tuple(_start(row, named[method_of(row.name)], curves.get(row.name, {})) for mine in several for row in mine)


def method_of(row: str) -> str:
    """`prompts/films/ppt` -> `ppt`."""
    return row.rpartition("/")[2]


def mean_losses(curves: Curves) -> tuple[tuple[int, float], ...]:
    """The mean over seeds at every step that all of them have."""
    runs = [dict(points) for points in curves.values()]
    if not runs:
        return ()
    shared = [step for step in runs[0] if all(step in run for run in runs)]
    return tuple((step, round(statistics.fmean(run[step] for run in runs), 6)) for step in shared)


def _start(row: Row, start: str, curves: Curves) -> Start:
    losses = mean_losses(curves)
    return Start(
        task=row.task,
        method=method_of(row.name),
        start=start,
        accuracy=row.accuracy.mean,
        accuracy_std=row.accuracy.std,
        num_seeds=row.num_seeds,
        first_loss=losses[0][1] if losses else None,
        last_loss=losses[-1][1] if losses else None,
        losses=losses,
    )
