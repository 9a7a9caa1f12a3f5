"""Which texts are chosen: uncertain, disputed, different; before a run, typical ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.labeling.selection import choose_informative, choose_typical, disagreement

TOPICS = ("the striker scored a late goal", "shares fell on the stock market", "rain and wind until the weekend")


def texts_of(counts: tuple[int, ...]) -> list[str]:
    return [f"{TOPICS[topic]} number {n}" for topic, count in enumerate(counts) for n in range(count)]


def test_disagreement_is_not_uncertainty() -> None:
    unsure, sure = [0.0, 0.0], [4.0, -4.0]
    members = np.array([[unsure, sure, sure], [unsure, sure, [-4.0, 4.0]]])
    values = disagreement(members)
    assert values[:2] == pytest.approx([0, 0], abs=1e-9)
    assert values[2] > 0.5


def test_informative_texts_are_uncertain_or_disputed_and_differ() -> None:
    texts = texts_of((40, 40, 40))
    probabilities = np.tile([0.99, 0.01], (120, 1))
    unsure = [*range(10), *range(40, 50), *range(80, 90)]
    probabilities[unsure] = [0.5, 0.5]
    chosen = choose_informative(texts, probabilities, None, 3)
    assert {index // 40 for index in chosen} == {0, 1, 2}, "one text per topic"
    assert set(chosen) <= set(unsure)
    members = np.tile([3.0, -3.0], (2, 120, 1))
    members[1, 77] = [-3.0, 3.0]
    assert choose_informative(texts, np.tile([0.9, 0.1], (120, 1)), members, 1) == [77]


def test_typical_texts_come_from_all_clusters_and_the_largest_first() -> None:
    texts = texts_of((20, 60, 40))
    chosen = choose_typical(texts, 3)
    assert [texts[index].split(" number")[0] for index in chosen] == [TOPICS[1], TOPICS[2], TOPICS[0]]


@pytest.mark.parametrize("texts", [["same"] * 9, ["a", "b", "c"], ["", "", "x y"]])
def test_each_text_is_chosen_at_most_once(texts: list[str]) -> None:
    probabilities = np.full((len(texts), 2), 0.5)
    for number in (1, 2, 3, 50):
        for chosen in (choose_typical(texts, number), choose_informative(texts, probabilities, None, number)):
            assert len(chosen) == len(set(chosen)) == min(number, len(texts))
