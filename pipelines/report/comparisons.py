"""Comparisons between rows of the leaderboard: paired bootstrap tests (each student against its baseline, ensemble
against best member), and initializations of soft prompts.

PPT reports that the initialization matters most with few labels ([Gu et al., 2022](https://arxiv.org/abs/2109.04332)).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.report.leaderboard import MEMBER_ROWS, Row
from stages.common.data.step_outputs import read_correct
from stages.common.metrics.bootstrap import Comparison, paired_bootstrap
from stages.common.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class RowComparison(Comparison):
    """Two rows of the leaderboard on the same test set. `num_seeds` has a number per row."""

    first: str
    second: str
    num_examples: int
    num_seeds: tuple[int, int]

    def __str__(self) -> str:
        p_value = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return (
            f"{self.first} - {self.second}: {100 * self.difference:+.1f} points (95% interval {100 * self.low:+.1f} to "
            f"{100 * self.high:+.1f}, {p_value}, paired bootstrap over {self.num_examples:,} examples and "
            f"{self.num_seeds[0]} x {self.num_seeds[1]} seeds)"
        )


def compare_rows(rows: Sequence[Row], folders: Mapping[str, Path], seed: int) -> tuple[RowComparison, ...]:
    """Compares each student with its baseline, and the ensemble with its best member.

    The best member is selected on the test set, which favors the member over the ensemble.

    Args:
        rows: The leaderboard.
        folders: Step name -> its files. Rows are compared if they have `test_logits.jsonl` of the same examples.
        seed: Seed of the resampling.
    """
    baselines = {row.student: row for row in rows if row.kind == "baseline"}
    ensemble = next((row for row in rows if row.kind == "ensemble"), None)
    members = [row for row in rows if row.kind in MEMBER_ROWS]
    best = max(members, key=lambda row: row.accuracy.mean, default=None)
    pairs = [*((row, baselines.get(row.student)) for row in rows if row.kind == "student"), (ensemble, best)]
    comparisons = (_compare(first, second, folders, seed) for first, second in pairs if first and second)
    return tuple(filter(None, comparisons))


def _compare(first: Row, second: Row, folders: Mapping[str, Path], seed: int) -> RowComparison | None:
    tables = [[folders[step] / "test_logits.jsonl" for step in row.steps] for row in (first, second)]
    if not all(path.exists() for table in tables for path in table):
        return None
    correct = [[read_correct(path) for path in table] for table in tables]
    uids = list(correct[0][0])
    if any(by_uid.keys() != correct[0][0].keys() for row in correct for by_uid in row):
        return None
    first_SN, second_SN = (np.array([[by_uid[uid] for uid in uids] for by_uid in row]) for row in correct)
    comparison = paired_bootstrap(first_SN, second_SN, seed=derive_seed(seed, first.name, second.name))
    return RowComparison(
        **asdict(comparison),
        first=first.name,
        second=second.name,
        num_examples=len(uids),
        num_seeds=(len(first_SN), len(second_SN)),
    )


Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Step name -> (optimizer step, training loss)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptInitRow:
    """A prompt method of a task: its initialization, test accuracy over seeds, and mean training loss."""

    task: str
    method: str
    init: str
    accuracy: float
    accuracy_std: float | None
    num_seeds: int
    first_loss: float | None
    last_loss: float | None
    losses: tuple[tuple[int, float], ...]


def compare_inits(
    rows: Sequence[Row], inits: Mapping[str, str], curves: Mapping[str, Curves]
) -> tuple[PromptInitRow, ...]:
    """Returns the prompt methods of each task that has more than one initialization.

    Args:
        rows: The leaderboard.
        inits: Method -> its initialization.
        curves: Row -> losses of its steps.
    """
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "prompt" and _method(row) in inits:
            by_task.setdefault(row.task, []).append(row)
    compared = [rows for rows in by_task.values() if len({inits[_method(row)] for row in rows}) > 1]
    return tuple(_init_row(row, inits[_method(row)], curves.get(row.name, {})) for rows in compared for row in rows)


def flat_inits(prompt_inits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a table of plain values, without the losses."""
    return [{name: value for name, value in item.items() if name != "losses"} for item in prompt_inits]


def mean_losses(curves: Curves) -> tuple[tuple[int, float], ...]:
    """Returns the mean over seeds at each optimizer step that all seeds have."""
    runs = [dict(points) for points in curves.values()]
    if not runs:
        return ()
    shared = [step for step in runs[0] if all(step in run for run in runs)]
    return tuple((step, round(statistics.fmean(run[step] for run in runs), 6)) for step in shared)


def _init_row(row: Row, init: str, curves: Curves) -> PromptInitRow:
    losses = mean_losses(curves)
    return PromptInitRow(
        task=row.task,
        method=_method(row),
        init=init,
        accuracy=row.accuracy.mean,
        accuracy_std=row.accuracy.std,
        num_seeds=row.num_seeds,
        first_loss=losses[0][1] if losses else None,
        last_loss=losses[-1][1] if losses else None,
        losses=losses,
    )


def _method(row: Row) -> str:
    return row.name.rpartition("/")[2]
