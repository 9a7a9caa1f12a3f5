"""Label logits of 11 patterns of the original PET; see README.md here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.pet_reference import FILE, logits

REFERENCE = json.loads(FILE.read_text())
CASES = [(golden, pattern) for golden in REFERENCE["sets"] for pattern in golden["task"]["patterns"]]


@pytest.mark.parametrize(("golden", "pattern"), CASES, ids=[f"{g['task']['name']}-{p}" for g, p in CASES])
def test_logits_are_those_of_the_original(golden: dict[str, Any], pattern: str) -> None:
    found = logits(REFERENCE["backbone"], golden, pattern)
    assert len(found) == 10
    for row, expected in zip(found, golden["logits"][pattern], strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_the_figures_tell_patterns_examples_and_labels_apart() -> None:
    for golden in REFERENCE["sets"]:
        figures = [value for rows in golden["logits"].values() for row in rows for value in row]
        assert len(figures) == len(golden["task"]["patterns"]) * 10 * len(golden["task"]["labels"])
        assert len(set(figures)) > 0.95 * len(figures)
