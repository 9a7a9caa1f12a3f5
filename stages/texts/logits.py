"""Logits on disk: one JSON object a line, so that people can read them and steps can mix them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.tasks import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_logits(path: Path, examples: Sequence[Example], logits: NDArray[np.float64], labels: Sequence[str]) -> None:
    """Writes one JSON object a line: uid, gold label (null if unknown), logits by label."""
    with path.open("w", encoding="utf-8") as file:
        for item, row in zip(examples, logits, strict=True):
            values = {label: round(float(value), 5) for label, value in zip(labels, row, strict=True)}
            line = {"uid": item.uid, "label": item.label, "logits": values}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_logits(path: Path, labels: Sequence[str]) -> NDArray[np.float64]:
    """[n, C] logits that `write_logits` wrote, columns in the order of `labels`."""
    import numpy as np

    with path.open(encoding="utf-8") as file:
        return np.array([[json.loads(line)["logits"][label] for label in labels] for line in file], dtype=np.float64)


def read_hits(path: Path) -> dict[str, bool]:
    """uid -> whether the gold label has the largest logit, out of what `write_logits` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["uid"]: max(row["logits"], key=row["logits"].__getitem__) == row["label"] for row in rows}
