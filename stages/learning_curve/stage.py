"""The learning-curve stage: plots test accuracy against the number of labeled examples."""

from __future__ import annotations

import json
import statistics
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
    """Test accuracy of a method with so many labelled texts: mean and sample standard deviation over choices of texts;
    None for a single choice.
    """

    method: str
    num_labeled: int
    accuracy: float
    accuracy_std: float | None
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The curves, method after method, few labels first. Files: `learning_curve.png`."""

    points: tuple[CurvePoint, ...]


def run(config: LearningCurveConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Gathers the scores and draws them."""

    del engine
    results = [json.loads((folder / "result.json").read_text()) for folder in inputs.measured]
    found = points(list(zip(config.methods, results, strict=True)))
    picture = figures.learning_curve([asdict(point) for point in found])
    picture.savefig(out / FIGURE_FILE, dpi=130)
    recorder.log_figure("learning_curve", picture)
    recorder.log_table("learning_curve", [asdict(point) for point in found])
    return Result(points=found)


def points(results: list[tuple[str, dict[str, Any]]]) -> tuple[CurvePoint, ...]:
    """A point for each method and number of labels.

    Args:
        results: Method, and a result with `test` and `num_labeled`.
    """
    groups: dict[str, dict[int, list[float]]] = {}
    for method, result in results:
        by_size = groups.setdefault(method, {})
        by_size.setdefault(result["num_labeled"], []).append(result["test"]["accuracy"])
    return tuple(
        CurvePoint(
            method=method,
            num_labeled=size,
            accuracy=round(statistics.fmean(values), 6),
            accuracy_std=round(statistics.stdev(values), 6) if len(values) > 1 else None,
            num_seeds=len(values),
        )
        for method, by_size in groups.items()
        for size, values in sorted(by_size.items())
    )
