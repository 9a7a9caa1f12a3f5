"""Is a classifier better than a guess?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

MAX_P_VALUE = 0.05
"""Level of significance."""


def is_above_guess(num_right: int, gold: NDArray[np.int64]) -> bool:
    """Returns True if more examples are right than the most frequent label explains (binomial test).

    Args:
        num_right: Number of right predictions.
        gold: [n] indices of the labels.
    """
    majority = float(np.bincount(gold).max()) / len(gold)
    return bool(binomtest(num_right, len(gold), majority, alternative="greater").pvalue < MAX_P_VALUE)
