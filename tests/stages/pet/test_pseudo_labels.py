"""Tests of iPET: the teachers of a sub-model, and the number and choice of pseudo-labeled examples."""

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
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.pet.config import GenerationConfig, IpetConfig
from stages.pet.pseudo_labels import sample_by_confidence, select_examples

LABELS = ("rotten", "fresh")
NAMES = tuple(f"pet/{pattern}/{seed}" for pattern in ("review", "summary", "news") for seed in range(3))


def examples(count: int, label: str | None = None) -> list[Example]:
    return [Example(f"text-{number}", {"text": f"Text {number}."}, label) for number in range(count)]


def growth(generation: int = 1, *, from_zero: bool = False, **settings: Any) -> GenerationConfig:
    return GenerationConfig(generation=generation, from_zero=from_zero, **settings)


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 2), (0.01, 1), (0.5, 4), (1.0, 8)])
def test_sample_teachers_takes_a_fraction_of_the_others(fraction: float, count: int) -> None:
    times_chosen: Counter[str] = Counter()
    for seed in range(300):
        chosen = sample_teachers(NAMES, "pet/news/1", fraction, random.Random(seed))
        assert len(set(chosen)) == len(chosen) == count
        times_chosen.update(chosen)
    assert set(times_chosen) == set(NAMES) - {"pet/news/1"}
    expected = 300 * count / 8
    assert all(abs(times - expected) < 5 * expected**0.5 for times in times_chosen.values())


def test_sample_teachers_keeps_the_order_of_names() -> None:
    first, again = (sample_teachers(NAMES, NAMES[0], 0.5, random.Random(3)) for _ in range(2))
    assert first == again == tuple(name for name in NAMES if name in first)
    assert first != sample_teachers(NAMES, NAMES[0], 0.5, random.Random(4))


@pytest.mark.parametrize(
    ("generation", "targets", "size"),
    [
        (1, {"rotten": 12, "fresh": 4}, 20),
        (2, {"rotten": 72, "fresh": 24}, 100),
        (3, {"rotten": 372, "fresh": 124}, 500),
    ],
)
def test_targets_grow_by_the_scale_factor_and_keep_the_class_ratio(
    generation: int, targets: dict[str, int], size: int
) -> None:
    gold = [*examples(3, "rotten"), *examples(1, "fresh")]
    assert growth(generation, scale_factor=5).targets(LABELS, gold) == targets
    assert sum(targets.values()) + len(gold) == size


def test_targets_without_labels_are_equal_per_class() -> None:
    sizes = [growth(number, from_zero=True, scale_factor=5).targets(LABELS, []) for number in (1, 2, 3)]
    assert sizes == [dict.fromkeys(LABELS, count) for count in (10, 50, 250)]


def test_generation_config_does_not_depend_on_later_generations() -> None:
    short, long = (IpetConfig(generations=number, scale_factor=3, weights="accuracy") for number in (1, 5))
    first = {"generation": 1, "from_zero": False}
    assert GenerationConfig.of(short, **first) == GenerationConfig.of(long, **first)
    assert GenerationConfig.of(long, generation=2, from_zero=True) == growth(
        2, from_zero=True, scale_factor=3, weights="accuracy"
    )


def probabilities_of(*fresh: float) -> np.ndarray:
    """Returns probabilities [n, 2], given those of `fresh`."""
    return np.array([[1 - p, p] for p in fresh])


def test_sampled_examples_have_their_most_likely_label() -> None:
    unlabeled_set = examples(40)
    fresh = np.random.default_rng(0).uniform(size=40)
    sampled = sample_by_confidence(unlabeled_set, probabilities_of(*fresh), {"rotten": 9, "fresh": 6}, random.Random(0))
    assert Counter(item.label for item in sampled) == {"rotten": 9, "fresh": 6}
    assert len({item.uid for item in sampled}) == 15
    for item in sampled:
        number = int(item.uid.removeprefix("text-"))
        assert item.label == ("fresh" if fresh[number] > 0.5 else "rotten")
        assert item.fields == unlabeled_set[number].fields
    assert unlabeled_set == examples(40)


def test_same_seed_samples_the_same_examples() -> None:
    probabilities = probabilities_of(*np.random.default_rng(1).uniform(size=60))
    first, again, other = (
        sample_by_confidence(examples(60), probabilities, dict.fromkeys(LABELS, 8), random.Random(seed))
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_examples_are_repeated_if_a_label_has_too_few() -> None:
    probabilities, targets = probabilities_of(0.9, 0.8, 0.7, 0.2, 0.1), {"rotten": 5, "fresh": 2}
    sampled = sample_by_confidence(examples(5), probabilities, targets, random.Random(0))
    assert Counter(item.label for item in sampled) == {"rotten": 5, "fresh": 2}
    times = Counter(item.uid for item in sampled)
    assert sorted(times[uid] for uid in ("text-3", "text-4")) == [2, 3], "each at most as often as needed"
    assert max(times[f"text-{number}"] for number in range(3)) == 1
    assert sample_by_confidence([], np.zeros((0, 2)), dict.fromkeys(LABELS, 3), random.Random(0)) == []


@pytest.mark.parametrize("num_required", [1, 2])
def test_sample_is_in_proportion_to_the_confidence(num_required: int) -> None:
    """Compares with all orders in which examples can be sampled one by one, each in proportion to the rest."""
    fresh = (0.95, 0.8, 0.65, 0.51)
    expected = np.zeros(4)
    for order in itertools.permutations(range(4), num_required):
        likelihood, left = 1.0, sum(fresh)
        for row in order:
            likelihood *= fresh[row] / left
            left -= fresh[row]
        expected[list(order)] += likelihood
    counts, draws = np.zeros(4), 20_000
    rng = random.Random(2)
    for _ in range(draws):
        sampled = sample_by_confidence(examples(4), probabilities_of(*fresh), {"rotten": 0, "fresh": num_required}, rng)
        counts[[int(item.uid.removeprefix("text-")) for item in sampled]] += 1
    assert counts / draws == pytest.approx(expected, abs=0.015)
    assert abs(expected - num_required / 4).max() > 0.05  # a uniform sample would fail


def test_num_most_likely_samples_each_label() -> None:
    """An untrained model that prefers rotten everywhere."""
    probabilities, targets = probabilities_of(0.1, 0.2, 0.3, 0.4), dict.fromkeys(LABELS, 2)
    default = sample_by_confidence(examples(4), probabilities, targets, random.Random(0))
    assert Counter(item.label for item in default) == {"rotten": 2}
    forced = sample_by_confidence(examples(4), probabilities, targets, random.Random(0), num_most_likely=2)
    assert {item.uid: item.label for item in forced} == {
        "text-0": "rotten", "text-1": "rotten", "text-2": "fresh", "text-3": "fresh",
    }  # fmt: skip


def test_example_among_the_most_likely_of_two_labels_has_one() -> None:
    probabilities = probabilities_of(*np.linspace(0.05, 0.45, 9))
    sampled = sample_by_confidence(
        examples(9), probabilities, dict.fromkeys(LABELS, 9), random.Random(0), num_most_likely=8
    )
    assert len({item.uid for item in sampled}) == len(sampled) == 9
    assert all(
        (item.label == "rotten") is (int(item.uid[5:]) <= 4) for item in sampled
    )  # a tie goes to the first label


def test_num_most_likely_limits_the_candidates() -> None:
    fresh = np.linspace(0.01, 0.99, 50)
    by_label: dict[str, set[int]] = {label: set() for label in LABELS}
    for seed in range(60):
        sampled = sample_by_confidence(
            examples(50), probabilities_of(*fresh), dict.fromkeys(LABELS, 2), random.Random(seed), num_most_likely=5
        )
        for item in sampled:
            by_label[str(item.label)].add(int(item.uid[5:]))
    assert by_label == {"rotten": set(range(5)), "fresh": set(range(45, 50))}


def test_examples_of_an_unlikely_label_are_sampled_randomly() -> None:
    rng, uids = random.Random(0), set()
    probabilities = np.array([[0.9, 1e-8], [0.8, 2e-8]] * 10)  # every second example ranks higher for fresh
    for _ in range(400):
        sampled = sample_by_confidence(examples(20), probabilities, {"rotten": 0, "fresh": 1}, rng, num_most_likely=10)
        uids |= {item.uid for item in sampled}
    assert uids == {f"text-{number}" for number in range(1, 20, 2)}


def teacher(folder: Path, logits: np.ndarray, accuracy: float) -> Path:
    folder.mkdir()
    rows = [
        {"uid": f"text-{number}", "label": None, "logits": dict(zip(LABELS, row, strict=True))}
        for number, row in enumerate(logits.tolist())
    ]
    (folder / "unlabeled_logits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"held_out_accuracy": accuracy}))
    return folder


def test_teachers_are_weighted_equally_or_by_accuracy(tmp_path: Path) -> None:
    """(4, 0) and (0, 1): their mean is (2, 0.5), and with weights of 1 to 9 it is (0.4, 0.9)."""
    folders = [
        teacher(tmp_path / "first", np.array([[4.0, 0.0]]), 0.1),
        teacher(tmp_path / "second", np.array([[0.0, 1.0]]), 0.9),
    ]
    gold = [*examples(1, "rotten"), *examples(1, "fresh")]
    selected = {
        weights: select_examples(growth(scale_factor=2, weights=weights), gold, examples(1), folders, LABELS, seed=0)
        for weights in ("uniform", "accuracy")
    }
    assert selected == {"uniform": examples(1, "rotten"), "accuracy": examples(1, "fresh")}


def test_num_most_likely_is_for_the_first_generation_without_labels(tmp_path: Path) -> None:
    """The teacher predicts rotten for every example, so fresh ones are selected only with num_most_likely."""
    folders = [teacher(tmp_path / "t", np.array([[3.0, logit] for logit in np.linspace(0, 1, 30)]), 0.0)]
    settings = {"scale_factor": 2, "examples_per_class": 3, "num_most_likely": 4}

    def labels_of(config: GenerationConfig, gold: list[Example]) -> Counter[str | None]:
        return Counter(item.label for item in select_examples(config, gold, examples(30), folders, LABELS, seed=1))

    assert labels_of(growth(1, from_zero=True, **settings), []) == {"rotten": 3, "fresh": 3}
    assert labels_of(growth(2, from_zero=True, **settings), []) == {"rotten": 6}
    gold = [*examples(3, "rotten"), *examples(3, "fresh")]
    assert labels_of(growth(1, **settings), gold) == {"rotten": 3}


def test_selection_depends_on_seed_and_generation(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(80, 2))
    folders = [teacher(tmp_path / "t", logits, 0.5)]
    gold = [*examples(4, "rotten"), *examples(4, "fresh")]

    def select(generation: int, scale_factor: float, seed: int) -> list[Example]:
        return select_examples(
            growth(generation, scale_factor=scale_factor), gold, examples(80), folders, LABELS, seed=seed
        )

    first, again, other_seed = (select(1, 4, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other_seed
    later = select(2, 2, seed=1)
    assert len(later) == len(first) == 24
    assert later != first


def test_order_of_the_rows_of_a_teacher_does_not_matter(tmp_path: Path) -> None:
    folder = teacher(tmp_path / "t", np.random.default_rng(0).normal(size=(80, 2)), 0.5)
    gold = [*examples(4, "rotten"), *examples(4, "fresh")]
    first = select_examples(growth(scale_factor=4), gold, examples(80), [folder], LABELS, seed=1)
    file = folder / "unlabeled_logits.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert select_examples(growth(scale_factor=4), gold, examples(80), [folder], LABELS, seed=1) == first
    with pytest.raises(DataError, match="the uid 'text-80'"):
        select_examples(growth(scale_factor=4), gold, examples(81), [folder], LABELS, seed=1)
