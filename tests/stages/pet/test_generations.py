"""iPET: who labels for whom, how many texts, and which ones."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.dag.members import sample_teachers
from stages.common.examples import Example
from stages.pet.config import GenerationConfig, IpetConfig
from stages.pet.generations import sample_by_confidence, select_examples

LABELS = ("rotten", "fresh")
NAMES = tuple(f"pet/{pattern}/{seed}" for pattern in ("review", "summary", "news") for seed in range(3))


def texts(count: int, label: str | None = None) -> list[Example]:
    return [Example(f"text-{number}", {"text": f"Text {number}."}, label) for number in range(count)]


def growth(generation: int = 1, *, from_zero: bool = False, **settings: Any) -> GenerationConfig:
    return GenerationConfig(generation=generation, from_zero=from_zero, **settings)


# --- teachers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.01, 1), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_others_teaches_and_never_oneself(share: float, count: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        chosen = sample_teachers(NAMES, "pet/news/1", share, random.Random(seed))
        assert len(set(chosen)) == len(chosen) == count
        seen.update(chosen)
    assert set(seen) == set(NAMES) - {"pet/news/1"}, "each other one has its turn"
    expected = 300 * count / 8
    assert all(abs(times - expected) < 5 * expected**0.5 for times in seen.values())


def test_the_same_draw_chooses_the_same_teachers_in_the_order_of_names() -> None:
    first, again = (sample_teachers(NAMES, NAMES[0], 0.5, random.Random(3)) for _ in range(2))
    assert first == again == tuple(name for name in NAMES if name in first)
    assert first != sample_teachers(NAMES, NAMES[0], 0.5, random.Random(4))


# --- how many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "drawn", "size"),
    [
        (1, {"rotten": 12, "fresh": 4}, 20),
        (2, {"rotten": 72, "fresh": 24}, 100),
        (3, {"rotten": 372, "fresh": 124}, 500),
    ],
)
def test_the_set_grows_by_its_scale_and_keeps_the_class_ratio(
    generation: int, drawn: dict[str, int], size: int
) -> None:
    gold = [*texts(3, "rotten"), *texts(1, "fresh")]
    found = growth(generation, scale_factor=5).targets(LABELS, gold)
    assert found == drawn
    assert sum(found.values()) + len(gold) == size


def test_without_labels_the_classes_are_even() -> None:
    sizes = [growth(number, from_zero=True, scale_factor=5).targets(LABELS, []) for number in (1, 2, 3)]
    assert sizes == [dict.fromkeys(LABELS, count) for count in (10, 50, 250)]


def test_a_generation_knows_nothing_of_how_many_follow() -> None:
    short, long = (IpetConfig(generations=number, scale_factor=3, weights="accuracy") for number in (1, 5))
    assert GenerationConfig.of(short, 1, has_labels=True) == GenerationConfig.of(long, 1, has_labels=True)
    assert GenerationConfig.of(long, 2, has_labels=False) == growth(
        2, from_zero=True, scale_factor=3, weights="accuracy"
    )


# --- which --------------------------------------------------------------------------------------------------------


def sure(*shares: float) -> np.ndarray:
    """[n, 2] probabilities; each share is that of `fresh`."""
    return np.array([[1 - share, share] for share in shares])


def test_texts_get_their_likeliest_label_and_are_drawn_once() -> None:
    pile = texts(40)
    shares = np.random.default_rng(0).uniform(size=40)
    found = sample_by_confidence(pile, sure(*shares), LABELS, {"rotten": 9, "fresh": 6}, random.Random(0))
    assert Counter(item.label for item in found) == {"rotten": 9, "fresh": 6}
    assert len({item.uid for item in found}) == 15
    for item in found:
        number = int(item.uid.removeprefix("text-"))
        assert item.label == ("fresh" if shares[number] > 0.5 else "rotten")
        assert item.fields == pile[number].fields
    assert pile == texts(40), "the pile's own values stay without labels"


def test_the_same_seed_draws_the_same_texts() -> None:
    probabilities = sure(*np.random.default_rng(1).uniform(size=60))
    first, again, other = (
        sample_by_confidence(texts(60), probabilities, LABELS, dict.fromkeys(LABELS, 8), random.Random(seed))
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_fewer_are_drawn_where_the_pile_has_not_so_many() -> None:
    found = sample_by_confidence(
        texts(4), sure(0.9, 0.8, 0.7, 0.2), LABELS, {"rotten": 3, "fresh": 2}, random.Random(0)
    )
    assert Counter(item.label for item in found) == {"rotten": 1, "fresh": 2}
    assert sample_by_confidence([], np.zeros((0, 2)), LABELS, dict.fromkeys(LABELS, 3), random.Random(0)) == []


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_text_is_drawn_as_often_as_its_label_is_sure(wanted: int) -> None:
    """Against all orders in which texts can be drawn one after the other, each in proportion to what is left."""
    shares = (0.95, 0.8, 0.65, 0.51)
    expected = np.zeros(4)
    for order in itertools.permutations(range(4), wanted):
        likelihood, left = 1.0, sum(shares)
        for row in order:
            likelihood *= shares[row] / left
            left -= shares[row]
        expected[list(order)] += likelihood
    counts, draws = np.zeros(4), 20_000
    rng = random.Random(2)
    for _ in range(draws):
        found = sample_by_confidence(texts(4), sure(*shares), LABELS, {"rotten": 0, "fresh": wanted}, rng)
        counts[[int(item.uid.removeprefix("text-")) for item in found]] += 1
    assert counts / draws == pytest.approx(expected, abs=0.015)
    even = wanted / 4
    assert abs(expected - even).max() > 0.05, "the test would notice an even draw"


# --- from zero ----------------------------------------------------------------------------------------------------


def test_the_likeliest_texts_of_a_label_are_taken_even_where_another_is_likelier() -> None:
    """An untrained model that prefers rotten everywhere."""
    probabilities, wanted = sure(0.1, 0.2, 0.3, 0.4), dict.fromkeys(LABELS, 2)
    plain = sample_by_confidence(texts(4), probabilities, LABELS, wanted, random.Random(0))
    assert Counter(item.label for item in plain) == {"rotten": 2}
    forced = sample_by_confidence(texts(4), probabilities, LABELS, wanted, random.Random(0), most_confident=2)
    assert {item.uid: item.label for item in forced} == {
        "text-0": "rotten", "text-1": "rotten", "text-2": "fresh", "text-3": "fresh",
    }  # fmt: skip


def test_a_text_that_two_labels_claim_has_one_label() -> None:
    probabilities = sure(*np.linspace(0.05, 0.45, 9))
    found = sample_by_confidence(
        texts(9), probabilities, LABELS, dict.fromkeys(LABELS, 9), random.Random(0), most_confident=8
    )
    assert len({item.uid for item in found}) == len(found) == 9
    assert all((item.label == "rotten") is (int(item.uid[5:]) <= 4) for item in found), "the middle is the first's"


def test_only_the_likeliest_are_drawn_among() -> None:
    shares = np.linspace(0.01, 0.99, 50)
    drawn: dict[str, set[int]] = {label: set() for label in LABELS}
    for seed in range(60):
        found = sample_by_confidence(
            texts(50), sure(*shares), LABELS, dict.fromkeys(LABELS, 2), random.Random(seed), most_confident=5
        )
        for item in found:
            drawn[str(item.label)].add(int(item.uid[5:]))
    assert drawn == {"rotten": set(range(5)), "fresh": set(range(45, 50))}


def test_texts_of_an_unlikely_label_are_drawn_by_chance_too() -> None:
    rng, drawn = random.Random(0), set()
    probabilities = np.array([[0.9, 1e-8], [0.8, 2e-8]] * 10)  # every second text ranks higher as fresh
    for _ in range(400):
        found = sample_by_confidence(
            texts(20), probabilities, LABELS, {"rotten": 0, "fresh": 1}, rng, most_confident=10
        )
        drawn |= {item.uid for item in found}
    assert drawn == {f"text-{number}" for number in range(1, 20, 2)}


# --- files of teachers --------------------------------------------------------------------------------------------


def teacher(folder: Path, logits: np.ndarray, accuracy: float) -> Path:
    folder.mkdir()
    rows = [
        {"uid": f"text-{number}", "label": None, "logits": dict(zip(LABELS, row, strict=True))}
        for number, row in enumerate(logits.tolist())
    ]
    (folder / "unlabeled_logits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"train_accuracy_before_training": accuracy}))
    return folder


def test_teachers_weigh_the_same_or_by_their_accuracy(tmp_path: Path) -> None:
    """(4, 0) and (0, 1): their mean is (2, 0.5), and with weights of 1 to 9 it is (0.4, 0.9)."""
    folders = [
        teacher(tmp_path / "first", np.array([[4.0, 0.0]]), 0.1),
        teacher(tmp_path / "second", np.array([[0.0, 1.0]]), 0.9),
    ]
    gold = [*texts(1, "rotten"), *texts(1, "fresh")]
    found = {
        weights: select_examples(growth(scale_factor=2, weights=weights), gold, texts(1), folders, LABELS, seed=0)
        for weights in ("uniform", "accuracy")
    }
    assert found == {"uniform": texts(1, "rotten"), "accuracy": texts(1, "fresh")}


def test_the_likeliest_are_preferred_in_the_first_generation_without_labels_alone(tmp_path: Path) -> None:
    """A teacher that calls everything rotten: fresh texts are found by force, or not at all."""
    folders = [teacher(tmp_path / "t", np.array([[3.0, share] for share in np.linspace(0, 1, 30)]), 0.0)]
    settings = {"scale_factor": 2, "examples_per_class": 3, "num_most_likely": 4}

    def labels_of(config: GenerationConfig, gold: list[Example]) -> Counter[str | None]:
        return Counter(item.label for item in select_examples(config, gold, texts(30), folders, LABELS, seed=1))

    assert labels_of(growth(1, from_zero=True, **settings), []) == {"rotten": 3, "fresh": 3}
    assert labels_of(growth(2, from_zero=True, **settings), []) == {"rotten": 6}
    gold = [*texts(3, "rotten"), *texts(3, "fresh")]
    assert labels_of(growth(1, **settings), gold) == {"rotten": 3}


def test_the_seed_and_the_generation_decide_the_draw(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(80, 2))
    folders = [teacher(tmp_path / "t", logits, 0.5)]
    gold = [*texts(4, "rotten"), *texts(4, "fresh")]

    def drawn(generation: int, scale: float, seed: int) -> list[Example]:
        return select_examples(growth(generation, scale_factor=scale), gold, texts(80), folders, LABELS, seed=seed)

    first, again, other_seed = (drawn(1, 4, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other_seed
    later = drawn(2, 2, seed=1)
    assert len(later) == len(first) == 24, "as many texts, so that the number of the generation alone differs"
    assert later != first
