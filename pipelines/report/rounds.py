"""Rounds of labeling: the accuracy of each run of a recipe, by its number of labeled examples.

Runs of other data are not comparable, so only those with the test set of the last run are shown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROUNDS_FILE = "rounds.json"
SHOWN_ROWS = ("student", "ensemble", "baseline")
"""Kinds of rows whose rounds are shown."""


def add_round(folder: Path, report: Mapping[str, Any], test_digest: str) -> list[dict[str, Any]]:
    """Adds the accuracies of a run to the file in the folder of its report.

    Args:
        folder: The folder; created if it does not exist.
        report: Content of report.json.
        test_digest: Digest of the test set.

    Returns:
        The points of all rounds with this test set, with few labels first: `method`, `num_labeled`, `accuracy`,
        `accuracy_std` and `num_seeds`. Empty if there is one round.
    """
    path = folder / ROUNDS_FILE
    points: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = [_point(row, test_digest) for row in report["rows"] if row["kind"] in SHOWN_ROWS]
    replaced = {_identity(point) for point in new}
    points = [*(point for point in points if _identity(point) not in replaced), *new]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{ROUNDS_FILE}")
    temporary.write_text(json.dumps(points) + "\n", encoding="utf-8")
    temporary.replace(path)
    return _shown(points, test_digest)


def _point(row: Mapping[str, Any], test_digest: str) -> dict[str, Any]:
    return {
        "method": row["name"],
        "num_labeled": row["num_labeled"],
        "accuracy": row["accuracy"]["mean"],
        "accuracy_std": row["accuracy"]["std"],
        "num_seeds": row["num_seeds"],
        "test_digest": test_digest,
    }


def _identity(point: Mapping[str, Any]) -> tuple[str, int, str]:
    return point["method"], point["num_labeled"], point["test_digest"]


def _shown(points: Sequence[Mapping[str, Any]], test_digest: str) -> list[dict[str, Any]]:
    comparable = [point for point in points if point["test_digest"] == test_digest]
    rounds = Counter(point["method"] for point in comparable)
    shown = [point for point in comparable if rounds[point["method"]] > 1]
    return [
        {name: value for name, value in point.items() if name != "test_digest"}
        for point in sorted(shown, key=lambda point: point["num_labeled"])
    ]
