"""Comparisons between rows of the leaderboard: paired bootstrap tests (student against baseline, ensemble against
best member), and initializations of soft prompts.

PPT claims that the initialization matters most where labels are few ([Gu et al.,
2022](https://arxiv.org/abs/2109.04332)).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kinds import MEMBER_KINDS
from pipelines.report.leaderboard import Row
from stages.common.data.step_outputs import read_correct
from stages.common.metrics.bootstrap import Comparison, paired_bootstrap
from stages.common.seeds import derive_seed


def flat_inits(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparison of starts as a table of plain values: all but the curves."""
    return [{name: value for name, value in item.items() if name != "losses"} for item in compared]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowComparison(Comparison):
    """Two rows of the leaderboard on the same test set. `num_seeds` counts those of the first and of the second."""

    first: str
    second: str
    num_texts: int
    num_seeds: tuple[int, int]

    def __str__(self) -> str:
        chance = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return (
            f"{self.first} - {self.second}: {100 * self.difference:+.1f} points (95% interval {100 * self.low:+.1f} to "
            f"{100 * self.high:+.1f}, {chance}, paired bootstrap over {self.num_texts:,} texts and "
            f"{self.num_seeds[0]} x {self.num_seeds[1]} seeds)"
        )


def compare_rows(rows: Sequence[Row], folders: Mapping[str, Path], seed: int) -> tuple[RowComparison, ...]:
    """Compares the student with the baseline, and the ensemble with its best member.

    The best member is the best on the test set itself, which favours it: the ensemble's lead is no larger for it.

    Args:
        rows: The leaderboard.
        folders: Step name -> its files; only steps with `test_logits.jsonl` of the same texts are compared.
        seed: Seed of the resampling.
    """
    named = {row.name: row for row in rows}
    members = [row for row in rows if row.kind in MEMBER_KINDS]
    best = max(members, key=lambda row: row.accuracy.mean, default=None)
    pairs = [(named.get("student"), named.get("baseline")), (named.get("ensemble"), best)]
    found = (_compare(first, second, folders, seed) for first, second in pairs if first and second)
    return tuple(duel for duel in found if duel)


def _compare(first: Row, second: Row, folders: Mapping[str, Path], seed: int) -> RowComparison | None:
    tables = [[folders[step] / "test_logits.jsonl" for step in row.steps] for row in (first, second)]
    if not all(path.exists() for table in tables for path in table):
        return None
    hits = [[read_correct(path) for path in table] for table in tables]
    uids = list(hits[0][0])
    if any(model.keys() != hits[0][0].keys() for models in hits for model in models):
        return None
    right = [_matrix(models, uids) for models in hits]
    found = paired_bootstrap(*right, seed=derive_seed(seed, first.name, second.name))
    num_seeds = (len(hits[0]), len(hits[1]))
    return RowComparison(
        **asdict(found), first=first.name, second=second.name, num_texts=len(uids), num_seeds=num_seeds
    )


def _matrix(models: Sequence[Mapping[str, bool]], uids: Sequence[str]) -> NDArray[np.bool_]:
    """[S, n] whether a model, trained with a seed, is right about a text."""

    return np.array([[model[uid] for uid in uids] for model in models])


Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Step name -> (optimizer step, loss) of a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptInitRow:
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


def compare_inits(
    rows: Sequence[Row], named: Mapping[str, str], curves: Mapping[str, Curves]
) -> tuple[PromptInitRow, ...]:
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
    return tuple(
        _init_row(row, named[method_of(row.name)], curves.get(row.name, {})) for mine in several for row in mine
    )


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


def _init_row(row: Row, start: str, curves: Curves) -> PromptInitRow:
    losses = mean_losses(curves)
    return PromptInitRow(
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
