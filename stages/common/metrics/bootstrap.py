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
    """Resamples the texts, the same for both methods, and the seeds, each method's own.

    The percentile interval of Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13, and the
    p-value at which it would touch 0, never below 2 / (num_samples + 1); paired over texts as in Koehn, "Statistical
    Significance Tests for Machine Translation Evaluation" (EMNLP 2004). Over S seeds the bootstrap finds (S - 1) / S
    of their variance: with two or three of them the interval is a little too narrow, with one it speaks of the texts
    alone.

    Args:
        first: [S1, n] whether the first method, trained with a seed, is right about a text.
        second: [S2, n] the same of the second, its texts in the same order.
        num_samples: Number of resamplings.
        seed: Seed of the resampling.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """

    num_texts = first.shape[1]
    if num_texts != second.shape[1] or not num_texts:
        raise ValueError(f"{num_texts} and {second.shape[1]} texts do not compare. Give both methods the same ones.")
    rng = np.random.default_rng(seed)
    # Texts on which every model does alike are interchangeable. They are of few kinds, so instead of n texts a sample
    # draws how many there are of each kind.
    kinds, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
    texts = rng.multinomial(num_texts, counts / num_texts, num_samples)
    hits = [_num_hits(mine, texts, rng) for mine in (kinds[: len(first)], kinds[len(first) :])]
    gains = hits[0] * len(second) - hits[1] * len(first)  # whole numbers: a tie is exactly 0
    low, high = np.quantile(gains, [0.025, 0.975]) / (num_texts * len(first) * len(second))
    tail = 1 + min((gains <= 0).sum(), (gains >= 0).sum())
    return Comparison(
        difference=round(float(first.mean() - second.mean()), 6),
        low=round(float(low), 6),
        high=round(float(high), 6),
        p_value=min(1.0, 2 * float(tail) / (num_samples + 1)),
    )


def _num_hits(kinds: NDArray[np.bool_], texts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """[B] right answers of as many models as there are, drawn with replacement, over the drawn texts of each sample.

    Args:
        kinds: [S, K] whether a model is right about texts of a kind.
        texts: [B, K] how many texts of each kind a sample has.
        rng: Draws the models.
    """

    num_seeds = len(kinds)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), len(texts))
    found: NDArray[np.int64] = (seeds * (texts @ kinds.T.astype(np.int64))).sum(axis=1)
    return found
