"""Which differences of the leaderboard are more than chance: student against baseline, ensemble against best member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.measures.bootstrap import Comparison, paired_bootstrap
from stages.seeds import derive_seed
from stages.texts.logits import read_hits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.report import Row

MEMBERS = ("sub-model", "probe")
"""Kinds of rows that an ensemble is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel(Comparison):
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


def duels(rows: Sequence[Row], folders: Mapping[str, Path], seed: int) -> tuple[Duel, ...]:
    """Compares the student with the baseline, and the ensemble with its best member.

    The best member is the best on the test set itself, which favours it: the ensemble's lead is no larger for it.

    Args:
        rows: The leaderboard.
        folders: Step name -> its files; only steps with `test_logits.jsonl` of the same texts are compared.
        seed: Seed of the resampling.
    """
    named = {row.name: row for row in rows}
    members = [row for row in rows if row.kind in MEMBERS]
    best = max(members, key=lambda row: row.accuracy.mean, default=None)
    pairs = [(named.get("student"), named.get("baseline")), (named.get("ensemble"), best)]
    found = (_duel(first, second, folders, seed) for first, second in pairs if first and second)
    return tuple(duel for duel in found if duel)


def _duel(first: Row, second: Row, folders: Mapping[str, Path], seed: int) -> Duel | None:
    tables = [[folders[step] / "test_logits.jsonl" for step in row.steps] for row in (first, second)]
    if not all(path.exists() for table in tables for path in table):
        return None
    hits = [[read_hits(path) for path in table] for table in tables]
    uids = list(hits[0][0])
    if any(model.keys() != hits[0][0].keys() for models in hits for model in models):
        return None
    right = [_matrix(models, uids) for models in hits]
    found = paired_bootstrap(*right, seed=derive_seed(seed, first.name, second.name))
    num_seeds = (len(hits[0]), len(hits[1]))
    return Duel(**asdict(found), first=first.name, second=second.name, num_texts=len(uids), num_seeds=num_seeds)


def _matrix(models: Sequence[Mapping[str, bool]], uids: Sequence[str]) -> NDArray[np.bool_]:
    """[S, n] whether a model, trained with a seed, is right about a text."""
    import numpy as np

    return np.array([[model[uid] for uid in uids] for model in models])
