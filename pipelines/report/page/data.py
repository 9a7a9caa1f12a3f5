"""Reads what the page shows in addition to the leaderboard: training curves, calibration and confusion.

The source is the files of the measured steps. The page is therefore the same without a tracking server, and for steps
of earlier runs.
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

CALIBRATED_ROWS = ("student", "ensemble", "baseline")
"""Rows whose calibration is shown."""


def page_data(rows: Mapping[str, Sequence[str]], folders: Mapping[str, Path]) -> dict[str, Any]:
    """Returns `curves` and `confidence` as JSON values.

    Args:
        rows: Row -> its steps. A pretraining step is a row of one step.
        folders: Step name -> its files.
    """
    curves = {name: _curves(steps, folders) for name, steps in rows.items()}
    confidence = {name: _calibration(rows[name], folders) for name in CALIBRATED_ROWS if name in rows}
    return {
        "curves": {name: by_step for name, by_step in curves.items() if by_step},
        "confidence": {name: values for name, values in confidence.items() if values},
    }


def _curves(steps: Sequence[str], folders: Mapping[str, Path]) -> dict[str, list[LossPoint]]:
    """Returns step name -> (optimizer step, loss) of the steps that trained."""
    losses = {step: downsample(read_losses(folders[step])) for step in steps}
    return {step: points for step, points in losses.items() if points}


def _calibration(steps: Sequence[str], folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """Returns reliability, coverage and confusion over all seeds. Each example counts once per seed."""
    predictions = [_logits(folders[step] / "test_logits.jsonl") for step in steps]
    known = [item for item in predictions if item is not None]
    if not known or any(labels != known[0][0] for labels, _, _ in known):
        return None
    labels = known[0][0]
    probabilities = softmax(np.concatenate([logits for _, logits, _ in known]))
    gold = np.concatenate([indices for _, _, indices in known])
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (gold, probabilities.argmax(axis=1)), 1)
    return {
        "labels": labels,
        "confusion": counts.tolist(),
        "bins": [asdict(item) for item in calibration.reliability_bins(probabilities, gold)],
        "ece": round(expected_calibration_error(probabilities, gold), 6),
        "coverage": calibration.accuracy_at_coverage(probabilities, gold),
        "num_seeds": len(known),
    }


def _logits(path: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]] | None:
    """Returns labels [C], logits [n, C] and gold label indices [n]; None without logits or gold labels."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    if not lines or any(line["label"] is None for line in lines):
        return None
    labels = list(lines[0]["logits"])
    logits = np.array([[line["logits"][label] for label in labels] for line in lines], dtype=np.float64)
    return labels, logits, np.array([labels.index(line["label"]) for line in lines])
