"""Finds labeled examples whose label is probably wrong, with confident learning.

Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 2021), as in cleanlab. It reads
the ensemble's predictions for labeled examples by members that did not learn from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanlab.filter import find_label_issues

from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.soft_labels.combination import HeldOut
from stages.soft_labels.config import SUSPECTS_FILE

MIN_EXAMPLES = 5
"""Labeled examples per label below which nothing can be said about a label."""


def find_suspects(held_out: HeldOut, train_set: Sequence[Example], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the examples whose label is probably wrong, the least likely label first.

    Args:
        held_out: Predictions for the labeled examples.
        train_set: The labeled examples.
        labels: [C] labels, in the order of the logits.
    """
    known = sorted(set(held_out.gold.tolist()))
    if len(held_out.gold) < MIN_EXAMPLES * len(known) or len(known) < len(labels):
        return []
    probabilities = softmax(held_out.logits)
    rows = find_label_issues(
        held_out.gold, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    examples = {item.uid: item for item in train_set}
    return [
        {
            "uid": held_out.uids[row],
            **examples[held_out.uids[row]].fields,
            "label": labels[held_out.gold[row]],
            "predicted": labels[int(probabilities[row].argmax())],
            "probability": round(float(probabilities[row].max()), 4),
        }
        for row in rows
    ]


def write_suspects(folder: Path, suspects: Sequence[dict[str, Any]]) -> None:
    """Writes one JSON object per line."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in suspects)
    (folder / SUSPECTS_FILE).write_text("".join(lines), encoding="utf-8")
