"""Reads what the steps of the members wrote: their results, their weights, and the logits that calibrate them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common.data.step_outputs import read_logits
from stages.common.models.averaging import member_weights
from stages.common.models.config import Calibration
from stages.soft_labels.config import LabelingConfig

_REFERENCES: dict[Calibration, str] = {
    "contextual": "content_free_logits.jsonl",
    "unlabeled": "unlabeled_logits.jsonl",
}


def read_results(members: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads the result of each member."""
    return [json.loads((member / "result.json").read_text()) for member in members]


def weights_of(config: LabelingConfig, results: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Returns the weights of the members, [M]."""
    accuracies = [result["train_accuracy_before_training"] for result in results]
    return member_weights(config.ensemble.weights, accuracies, config.groups)


def read_reference(config: LabelingConfig, member: Path) -> NDArray[np.float64] | None:
    """Reads the logits [m, C] that calibrate a member; None without calibration."""
    file = _REFERENCES.get(config.ensemble.calibration)
    return read_logits(member / file, config.labels).logits if file else None
