"""Measures how often the precision of bfloat16 may decide a label.

A backbone in bfloat16 rounds its hidden states to eight binary digits. The logits of label words are computed from them
in float32, so they are rarely equal, but differences below the resolution of bfloat16 are as uncertain as a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common.data.step_outputs import read_logits
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.protocols import Recorder

DIGITS = 8
"""Binary digits of a bfloat16 number."""


def fraction_below_resolution(logits: NDArray[np.float64]) -> float:
    """Returns the fraction of examples whose two best labels differ by less than adjacent bfloat16 numbers do.

    Args:
        logits: [n, C]. The step between adjacent numbers is that at the larger magnitude of the two best logits.
    """
    second_n, best_n = np.sort(logits, axis=1)[:, -2:].T
    _, exponent_n = np.frexp(np.maximum(np.abs(best_n), np.abs(second_n)))
    is_below_n = best_n - second_n < np.ldexp(1.0, exponent_n - DIGITS)
    return float(is_below_n.mean())


def log_bf16_margins(classifier: ClozeClassifier, out: Path, labels: Sequence[str], recorder: Recorder) -> None:
    """Records the metric `test/margins_below_bf16` of the test set, if the backbone computes in bfloat16.

    Args:
        classifier: What has written the test logits.
        out: The folder with `test_logits.jsonl`.
        labels: [C] labels, in the order of the logits.
        recorder: Gets the metric.
    """
    if classifier.autocast or classifier.backbone.model.dtype == torch.bfloat16:
        logits = read_logits(out / "test_logits.jsonl", labels).logits
        recorder.log_metric("test/margins_below_bf16", fraction_below_resolution(logits))
