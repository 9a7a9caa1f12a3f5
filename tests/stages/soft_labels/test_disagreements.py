"""Tests of the table of examples that members disagree about."""

from __future__ import annotations

import numpy as np

from stages.common.examples import Example
from stages.soft_labels.stage import NUM_DISAGREEMENTS, disagreements

LABELS = ("rotten", "fresh")


def test_disagreements_start_with_the_most_disputed_examples() -> None:
    """Three members: they agree on a; b and c are 2 to 1, and c has the less sure soft label."""
    pile = [Example(uid, {"text": f"text {uid}"}) for uid in "abc"]
    votes = np.array([[[0, 1], [0, 1], [0, 1]], [[0, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [0, 1]]], dtype=float)
    soft = np.array([[0.1, 0.9], [0.3, 0.7], [0.45, 0.55]])
    rows = disagreements(pile, votes, soft, LABELS)
    assert [row["text"] for row in rows] == ["text c", "text b", "text a"]
    assert rows[0] == {"text": "text c", "votes": "fresh 2, rotten 1", "soft_label": "fresh 0.55, rotten 0.45"}
    assert rows[2]["votes"] == "fresh 3"
    many = [Example(str(number), {"text": "x"}) for number in range(50)]
    assert len(disagreements(many, np.zeros((2, 50, 2)), np.full((50, 2), 0.5), LABELS)) == NUM_DISAGREEMENTS
