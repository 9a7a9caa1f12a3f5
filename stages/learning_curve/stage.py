"""The learning-curve stage: plots test accuracy against the number of labeled examples."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common import figures
from stages.common.protocols import Engine, Recorder
from stages.learning_curve.config import FIGURE_FILE, LearningCurveConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`measured`: files of every measured step, in the order of `methods`."""

    measured: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Test accuracy of a method with `num_labeled` examples: mean over samples of examples, and sample standard
    deviation, which is None for a single sample.
    """

    method: str
    num_labeled: int
    accuracy: float
    accuracy_std: float | None
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The curves by method, with few labels first. Files: `learning_curve.png`."""

    points: tuple[CurvePoint, ...]


def run(config: LearningCurveConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Collects the scores and plots them."""
    del engine
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in inputs.measured]
    points = curve_points(config.methods, results)
    rows = [asdict(point) for point in points]
    figure = figures.learning_curve(rows)
    figure.savefig(out / FIGURE_FILE, dpi=130)
    recorder.log_figure("learning_curve", figure)
    recorder.log_table("learning_curve", rows)
    return Result(points=points)


def curve_points(methods: Sequence[str], results: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    """Returns one point per method and number of labeled examples.

    Args:
        methods: Method of each result.
        results: Results with `test` and `num_labeled`.
    """
    accuracies: dict[str, dict[int, list[float]]] = {}
    for method, result in zip(methods, results, strict=True):
        by_size = accuracies.setdefault(method, {})
        by_size.setdefault(result["num_labeled"], []).append(result["test"]["accuracy"])
    return tuple(
        CurvePoint(
            method=method,
            num_labeled=size,
            accuracy=round(statistics.fmean(values), 6),
            accuracy_std=round(statistics.stdev(values), 6) if len(values) > 1 else None,
            num_seeds=len(values),
        )
        for method, by_size in accuracies.items()
        for size, values in sorted(by_size.items())
    )
