"""Logits and losses that a step writes, for later steps and for the report.

Logits are JSON lines, one object per example, so that they are human-readable and the ensemble can average them. The
losses of a training run are stored next to its other files, so that the report plots them without a tracking server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.examples import Example


def write_logits(path: Path, examples: Sequence[Example], logits: NDArray[np.float64], labels: Sequence[str]) -> None:
    """Writes one JSON object a line: uid, gold label (null if unknown), logits by label."""
    with path.open("w", encoding="utf-8") as file:
        for item, row in zip(examples, logits, strict=True):
            values = {label: round(float(value), 5) for label, value in zip(labels, row, strict=True)}
            line = {"uid": item.uid, "label": item.label, "logits": values}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_logits(path: Path, labels: Sequence[str]) -> NDArray[np.float64]:
    """[n, C] logits that `write_logits` wrote, columns in the order of `labels`."""

    with path.open(encoding="utf-8") as file:
        return np.array([[json.loads(line)["logits"][label] for label in labels] for line in file], dtype=np.float64)


def read_correct(path: Path) -> dict[str, bool]:
    """uid -> whether the gold label has the largest logit, out of what `write_logits` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["uid"]: max(row["logits"], key=row["logits"].__getitem__) == row["label"] for row in rows}


LOSSES_FILE = "losses.json"


def write_losses(out: Path, losses: Sequence[float]) -> None:
    """Writes the loss of every step; nothing for a training of one step or none, which is no curve."""
    if len(losses) > 1:
        (out / LOSSES_FILE).write_text(json.dumps([round(loss, 6) for loss in losses]) + "\n")


def read_losses(folder: Path) -> list[float]:
    """The loss of every step; empty where nothing was written."""
    path = folder / LOSSES_FILE
    if not path.exists():
        return []
    losses: list[float] = json.loads(path.read_text())
    return losses


def downsample(losses: Sequence[float], num_points: int = 60) -> list[tuple[int, float]]:
    """(step, mean loss since the point before) at most `num_points` times, the last step included.

    Means, since the loss of single batches jumps; the curve keeps the length of the training.
    """
    width = max(1, -(-len(losses) // num_points))
    starts = range(0, len(losses), width)
    parts = [(min(start + width, len(losses)), losses[start : start + width]) for start in starts]
    return [(end, round(sum(part) / len(part), 6)) for end, part in parts]
