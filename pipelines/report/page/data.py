"""Collects what the page shows in addition to the leaderboard: training curves, calibration and confusion.

The report step reads it from the files of the measured steps. The page is therefore the same with and without a
tracking server, and for steps from earlier runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common.data.step_outputs import LossPoint, downsample, read_losses
from stages.common.metrics import calibration
from stages.common.metrics.classification import expected_calibration_error, softmax

SHOWN = ("student", "ensemble", "baseline")
"""Rows whose confidence is looked at: the classifier, its teachers, and what it has to beat."""


def page_data(rows: Mapping[str, Sequence[str]], folders: Mapping[str, Path]) -> dict[str, Any]:
    """`curves` and `confidence`, as JSON values.

    Args:
        rows: Name of a row -> its steps; pretraining steps may stand for themselves.
        folders: Step name -> its files.
    """
    curves = {name: _curves(steps, folders) for name, steps in rows.items()}
    looked_at = {name: _calibration(rows[name], folders) for name in SHOWN if name in rows}
    return {
        "curves": {name: found for name, found in curves.items() if found},
        "confidence": {name: found for name, found in looked_at.items() if found},
    }


def _curves(steps: Sequence[str], folders: Mapping[str, Path]) -> dict[str, list[LossPoint]]:
    """Step name -> (optimizer step, loss) of those that trained."""
    found = {step: downsample(read_losses(folders[step])) for step in steps}
    return {step: points for step, points in found.items() if points}


def _calibration(steps: Sequence[str], folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """Reliability, coverage and confusion over all seeds together: each text counts once for each seed."""

    read = [_logits(folders[step] / "test_logits.jsonl") for step in steps]
    known = [item for item in read if item is not None]
    if not known or any(labels != known[0][0] for labels, _, _ in known):
        return None
    labels = known[0][0]
    probabilities = softmax(np.concatenate([logits for _, logits, _ in known]))
    truth = np.concatenate([gold for _, _, gold in known])
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (truth, probabilities.argmax(axis=1)), 1)
    return {
        "labels": labels,
        "confusion": counts.tolist(),
        "bins": [asdict(item) for item in calibration.reliability_bins(probabilities, truth)],
        "ece": round(expected_calibration_error(probabilities, truth), 6),
        "coverage": calibration.accuracy_at_coverage(probabilities, truth),
        "num_seeds": len(known),
    }


def _logits(path: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]] | None:
    """Labels [C], logits [n, C] and indices [n] of the gold labels; None: no logits, or texts without a gold label."""

    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    if not lines or any(line["label"] is None for line in lines):
        return None
    labels = list(lines[0]["logits"])
    logits = np.array([[line["logits"][label] for label in labels] for line in lines], dtype=np.float64)
    return labels, logits, np.array([labels.index(line["label"]) for line in lines])
