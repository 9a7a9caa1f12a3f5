"""Compares label logits of 11 patterns with those of the original PET; see README.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.pet_reference import FILE, logits

REFERENCE = json.loads(FILE.read_text())
CASES = [(golden, pattern) for golden in REFERENCE["sets"] for pattern in golden["task"]["patterns"]]


@pytest.mark.parametrize(("golden", "pattern"), CASES, ids=[f"{g['task']['name']}-{p}" for g, p in CASES])
def test_logits_equal_those_of_the_original_pet(golden: dict[str, Any], pattern: str) -> None:
    actual = logits(REFERENCE["backbone"], golden, pattern)
    assert len(actual) == 10
    for row, expected in zip(actual, golden["logits"][pattern], strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_logits_differ_between_patterns_examples_and_labels() -> None:
    for golden in REFERENCE["sets"]:
        values = [value for rows in golden["logits"].values() for row in rows for value in row]
        assert len(values) == len(golden["task"]["patterns"]) * 10 * len(golden["task"]["labels"])
        assert len(set(values)) > 0.95 * len(values)
