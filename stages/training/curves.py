"""The losses of a training beside its other files, so that the report draws them without a tracking server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

NAME = "losses.json"


def write_losses(out: Path, losses: Sequence[float]) -> None:
    """Writes the loss of every step; nothing for a training of one step or none, which is no curve."""
    if len(losses) > 1:
        (out / NAME).write_text(json.dumps([round(loss, 6) for loss in losses]) + "\n")


def read_losses(folder: Path) -> list[float]:
    """The loss of every step; empty where nothing was written."""
    path = folder / NAME
    if not path.exists():
        return []
    losses: list[float] = json.loads(path.read_text())
    return losses


def thinned(losses: Sequence[float], num_points: int = 60) -> list[tuple[int, float]]:
    """(step, mean loss since the point before) at most `num_points` times, the last step included.

    Means, since the loss of single batches jumps; the curve keeps the length of the training.
    """
    width = max(1, -(-len(losses) // num_points))
    starts = range(0, len(losses), width)
    parts = [(min(start + width, len(losses)), losses[start : start + width]) for start in starts]
    return [(end, round(sum(part) / len(part), 6)) for end, part in parts]
