"""The paired bootstrap: do two methods differ on the same test set, or is the difference chance?

Percentile interval of Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; paired over examples
as in Koehn, "Statistical Significance Tests for Machine Translation Evaluation" (EMNLP 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Accuracy of the first method minus that of the second, the 95% interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, num_samples: int = 2000, seed: int
) -> Comparison:
    """Resamples the examples, the same ones for both methods, and the seeds of each method separately.

    The p-value is the level at which the interval would touch 0, at least 2 / (num_samples + 1). The bootstrap over S
    seeds covers (S - 1) / S of their variance: with two or three seeds the interval is a little too narrow, with one
    seed it covers only the variance of the examples.

    Args:
        first: [S1, n] True if the first method, trained with a seed, is right about an example.
        second: [S2, n] the same for the second method, with the same examples in the same order.
        num_samples: Number of resamplings.
        seed: Seed of the resampling.

    Raises:
        ValueError: the numbers of examples differ, or are 0.
    """
    num_examples = first.shape[1]
    if num_examples != second.shape[1] or not num_examples:
        raise ValueError(f"cannot compare {num_examples} with {second.shape[1]} examples. Use the same test set.")
    rng = np.random.default_rng(seed)
    # Examples with the same outcome for every model are interchangeable, and there are few kinds of them. So a sample
    # draws the number of examples of each kind instead of n examples.
    kinds, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
    samples = rng.multinomial(num_examples, counts / num_examples, num_samples)
    num_right = [_num_right(outcomes, samples, rng) for outcomes in (kinds[: len(first)], kinds[len(first) :])]
    gains = num_right[0] * len(second) - num_right[1] * len(first)  # integers, so a tie is exactly 0
    low, high = np.quantile(gains, [0.025, 0.975]) / (num_examples * len(first) * len(second))
    tail = 1 + min((gains <= 0).sum(), (gains >= 0).sum())
    return Comparison(
        difference=round(float(first.mean() - second.mean()), 6),
        low=round(float(low), 6),
        high=round(float(high), 6),
        p_value=min(1.0, 2 * float(tail) / (num_samples + 1)),
    )


def _num_right(outcomes: NDArray[np.bool_], samples: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the correct predictions of S models, drawn with replacement, in each sample: [B].

    Args:
        outcomes: [S, K] True if a model is right about examples of a kind.
        samples: [B, K] number of examples of each kind in a sample.
        rng: Draws the models.
    """
    num_seeds = len(outcomes)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), len(samples))
    num_right: NDArray[np.int64] = (seeds * (samples @ outcomes.T.astype(np.int64))).sum(axis=1)
    return num_right
