"""Tests of the paired bootstrap, compared with known distributions and with plain loops."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stages.common.metrics.bootstrap import paired_bootstrap


def rows(*texts: str) -> np.ndarray:
    """`"110"`: right, right, wrong. One string per seed."""
    return np.array([[letter == "1" for letter in text] for text in texts])


def test_bootstrap_finds_no_difference_between_equal_methods() -> None:
    actual = paired_bootstrap(rows("1101", "0111"), rows("1101"), seed=1)
    assert actual.difference == 0
    same = paired_bootstrap(rows("1101"), rows("1101"), seed=1)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_bootstrap_finds_the_largest_possible_difference() -> None:
    actual = paired_bootstrap(rows("1111"), rows("0000"), num_samples=999, seed=1)
    assert (actual.difference, actual.low, actual.high) == (1, 1, 1)
    assert actual.p_value == 2 / 1000
    turned = paired_bootstrap(rows("0000"), rows("1111"), num_samples=999, seed=1)
    assert (turned.difference, turned.low, turned.high, turned.p_value) == (-1, -1, -1, 2 / 1000)


def test_bootstrap_resamples_seeds() -> None:
    """One seed is always right, one never: a sample has two, one or none of the first with 1/4, 1/2, 1/4."""
    actual = paired_bootstrap(rows("11111", "00000"), rows("00000"), seed=1)
    assert (actual.difference, actual.low, actual.high) == (0.5, 0, 1)
    assert actual.p_value == pytest.approx(2 / 4, abs=0.04)


def test_bootstrap_over_one_seed_has_the_normal_interval() -> None:
    """With 120 wins and 80 losses in 1,000 examples, the mean is about normal with variance (0.2 - 0.04^2) / 1000."""
    first, second = rows("1" * 120 + "0" * 80 + "1" * 800), rows("0" * 120 + "1" * 80 + "1" * 800)
    actual = paired_bootstrap(first, second, num_samples=20_000, seed=3)
    error = ((0.2 - 0.04**2) / 1000) ** 0.5
    assert actual.difference == 0.04
    assert actual.low == pytest.approx(0.04 - 1.96 * error, abs=0.001)
    assert actual.high == pytest.approx(0.04 + 1.96 * error, abs=0.001)
    # 2 * (1 - Phi(0.04 / error)) = 0.0045; ties add a little
    assert actual.p_value == pytest.approx(0.0048, abs=0.0015)


def test_pairing_detects_a_small_difference() -> None:
    first, second = rows("1" * 260 + "0" * 240), rows("1" * 250 + "0" * 250)
    assert paired_bootstrap(first, second, seed=1).p_value < 0.01
    shuffled = np.random.default_rng(0).permutation(second[0])[None]
    assert paired_bootstrap(first, shuffled, seed=1).p_value > 0.3


def test_bootstrap_equals_plain_loops() -> None:
    table = np.random.default_rng(5).random((5, 60))
    first, second = table[:3] < np.array([[0.9], [0.7], [0.6]]), table[2:] < np.array([[0.5], [0.6], [0.5]])
    rng = random.Random(7)
    samples = []
    for _ in range(4000):
        texts = rng.choices(range(60), k=60)
        means = []
        for method in (first, second):
            seeds = rng.choices(range(3), k=3)
            means.append(sum(bool(method[seed][text]) for seed in seeds for text in texts) / 180)
        samples.append(means[0] - means[1])
    samples.sort()
    actual = paired_bootstrap(first, second, num_samples=4000, seed=9)
    assert actual.difference == pytest.approx(first.mean() - second.mean(), abs=1e-6)
    assert actual.low == pytest.approx(samples[100], abs=0.015)
    assert actual.high == pytest.approx(samples[3900], abs=0.015)
    assert actual.p_value == pytest.approx(2 * sum(value <= 0 for value in samples) / 4000, abs=0.015)


def test_bootstrap_is_deterministic_for_a_seed() -> None:
    first, second = rows("1101101", "1111001"), rows("1001100")
    assert paired_bootstrap(first, second, seed=4) == paired_bootstrap(first, second, seed=4)
    wide = paired_bootstrap(np.tile(first, 40), np.tile(second, 40), seed=4)
    assert wide != paired_bootstrap(np.tile(first, 40), np.tile(second, 40), seed=5)


@pytest.mark.parametrize("second", [rows("11"), np.zeros((1, 0), dtype=bool)])
def test_bootstrap_rejects_other_examples(second: np.ndarray) -> None:
    first = rows("111") if second.size else np.zeros((1, 0), dtype=bool)
    with pytest.raises(ValueError, match="the same test set"):
        paired_bootstrap(first, second, seed=1)
