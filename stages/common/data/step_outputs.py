"""Logits and losses that a step writes, for later steps and for the report.

Logits are JSON lines, one object per example, so that they are human-readable and the ensemble can average them. The
losses of a training run are stored next to its other files, so that the report plots them without a tracking server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.common.errors import DataError
from stages.common.examples import Example, Label, read_label

LOSSES_FILE = "losses.json"
TEXTS_PER_SECOND = "test/texts_per_second"
"""Name of the metric of the speed of a classifier."""


@dataclass(frozen=True, slots=True)
class LogitRows:
    """Logits that a step wrote, with the examples that they belong to."""

    path: Path
    uids: tuple[str, ...]
    """[n] uids of the examples."""
    logits: NDArray[np.float64]
    """[n, C] in the order of `uids`."""
    gold: tuple[Label | None, ...]
    """[n] gold labels; None if unknown."""


def write_logits(path: Path, examples: Sequence[Example], logits: NDArray[np.float64], labels: Sequence[str]) -> None:
    """Writes one JSON object per line: uid, gold label (null if unknown), logits by label, rounded to 5 digits."""
    with path.open("w", encoding="utf-8") as file:
        for item, row in zip(examples, logits, strict=True):
            values = {label: round(float(value), 5) for label, value in zip(labels, row, strict=True)}
            line = {"uid": item.uid, "label": item.label, "logits": values}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_logits(path: Path, labels: Sequence[str]) -> LogitRows:
    """Reads a file of `write_logits`, with columns in the order of `labels`. Use `aligned` to join it with examples."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    values = [[row["logits"][label] for label in labels] for row in rows]
    uids, gold = tuple(row["uid"] for row in rows), tuple(read_label(row["label"]) for row in rows)
    return LogitRows(path, uids, np.array(values, dtype=np.float64).reshape(len(rows), len(labels)), gold)


def aligned(rows: LogitRows, uids: Sequence[str]) -> NDArray[np.float64]:
    """Returns the logits [n, C] in the order of `uids`.

    Args:
        rows: From `read_logits`.
        uids: [n] uids of the examples to join with.

    Raises:
        DataError: the file has other examples, or a uid occurs twice.
    """
    if rows.uids == tuple(uids):
        return rows.logits
    index = {uid: row for row, uid in enumerate(rows.uids)}
    wrong = set(uids) ^ set(index)
    if wrong or len(index) != len(rows.uids) or len(index) != len(uids):
        problem = f"the uid {min(wrong)!r} occurs in only one of them" if wrong else "a uid occurs twice"
        raise DataError(
            f"the {len(rows.uids):,} rows of {rows.path} do not match {len(uids):,} examples: {problem}.",
            "Run the step that wrote the file again, from the same split files.",
        )
    return rows.logits[[index[uid] for uid in uids]]


def read_correct(path: Path) -> dict[str, bool]:
    """Returns uid -> True if the gold label has the largest logit, from a file of `write_logits`. Of several gold
    labels: if they are the labels whose logits are above 0.
    """
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["uid"]: _is_correct(row["logits"], row["label"]) for row in rows}


def _is_correct(logits: dict[str, float], gold: str | list[str] | None) -> bool:
    if isinstance(gold, list):
        return {label for label, value in logits.items() if value > 0} == set(gold)
    return max(logits, key=logits.__getitem__) == gold


def write_losses(out: Path, losses: Sequence[float]) -> None:
    """Writes the loss of every step. Does nothing for fewer than two steps, which are not a curve."""
    if len(losses) > 1:
        (out / LOSSES_FILE).write_text(json.dumps([round(loss, 6) for loss in losses]) + "\n")


def read_losses(folder: Path) -> list[float]:
    """Returns the loss of every step; empty if the folder has none."""
    path = folder / LOSSES_FILE
    if not path.exists():
        return []
    losses: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return losses


class LossPoint(NamedTuple):
    """A point of a downsampled loss curve."""

    step: int
    loss: float


def downsample(losses: Sequence[float], num_points: int = 60) -> list[LossPoint]:
    """Returns at most `num_points` points: the mean loss since the previous point. The last step is included.

    The loss of single batches is noisy, so points are means.
    """
    width = max(1, -(-len(losses) // num_points))
    starts = range(0, len(losses), width)
    parts = [(min(start + width, len(losses)), losses[start : start + width]) for start in starts]
    return [LossPoint(end, round(sum(part) / len(part), 6)) for end, part in parts]
