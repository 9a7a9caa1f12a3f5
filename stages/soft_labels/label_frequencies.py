"""How frequent each label is among the unlabeled data, as the ensemble sees it.

With 16 labeled examples per label, members learn that all labels are equally frequent. If they are not, a rare label is
predicted too often, and the accuracy suffers. The frequencies follow from the probabilities of the unlabeled examples
by expectation maximization (Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities",
Neural Computation 2002). Probabilities that are less certain than right make it exaggerate, the more so the more labels
there are. So the estimate is drawn to the frequencies among the labeled data, and counts only if it clearly differs
from them. Letters in names of arrays: n examples, C labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.common.metrics.classification import softmax

PRIOR_LABELS = 8
"""C labels draw the estimate to the labeled frequencies with a share of C / (C + 8)."""
MIN_DIVERGENCE = 0.02
"""Kullback-Leibler divergence from the labeled frequencies, in nats, below which these are kept. For two labels that
are equally frequent among the labeled data, it is that of 60% and 40%.
"""
MAX_ITERATIONS = 200
TOLERANCE = 1e-6


def estimate_frequencies(logits: NDArray[np.float64], labeled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the frequency of each label among unlabeled examples, [C]; their sum is 1.

    Args:
        logits: [n, C] of the unlabeled examples, calibrated for data with the frequencies `labeled`.
        labeled: [C] frequencies among the labeled examples, above 0. They are the result if there is no unlabeled
            example, or if the estimate hardly differs.
    """
    if not len(logits):
        return labeled
    probabilities_nC = softmax(logits)
    prior_share = len(labeled) / (len(labeled) + PRIOR_LABELS)
    frequencies_C = labeled
    for _ in range(MAX_ITERATIONS):
        weighted_nC = probabilities_nC * (frequencies_C / labeled)
        posterior_nC = weighted_nC / weighted_nC.sum(axis=1, keepdims=True)
        updated_C = prior_share * labeled + (1 - prior_share) * posterior_nC.mean(axis=0)
        change = np.abs(updated_C - frequencies_C).max()
        frequencies_C = updated_C
        if change < TOLERANCE:
            break
    divergence = float((frequencies_C * np.log(frequencies_C / labeled)).sum())
    return frequencies_C if divergence >= MIN_DIVERGENCE else labeled
