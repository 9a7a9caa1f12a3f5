"""Runs a stage as the engine does, and reads what it left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.protocols import LocalEngine, SilentRecorder
from stages.texts.logits import read_logits

LABELS = ("rotten", "fresh")
SILENT = SilentRecorder()


@dataclass
class Kept(SilentRecorder):
    """Keeps the last point of every curve, and the tables."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def metric(self, name: str, value: float, step: int = 0) -> None:
        del step
        self.metrics[name] = value

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[name] = rows


def run(stage: Any, config: Any, inputs: Any, out: Path, recorder: Any = SILENT) -> Any:
    """Runs a stage into an empty folder, with its result beside its files."""
    out.mkdir(parents=True)
    torch.manual_seed(len(str(out)))  # a stage must not depend on what was drawn before
    result = stage.run(config, inputs, out, recorder, LocalEngine())
    (out / "result.json").write_text(json.dumps(asdict(result)))
    return result


def logits_of(folder: Path, name: str = "test_logits") -> np.ndarray:
    """[n, 2] logits that a stage wrote."""
    return read_logits(folder / f"{name}.jsonl", LABELS)


def written(folder: Path) -> dict[str, bytes]:
    """Name -> content of weights, logits and result."""
    files = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl"))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return found | {"result": (folder / "result.json").read_bytes()}
