"""How much the members of the ensemble agree about a set of texts.

Members that read texts in different ways agree where they learned the task. If they agree less on the unlabeled set
than on the test set, the unlabeled texts are probably of another domain, and soft labels are less often right. Letters
in names of arrays: M members, n examples, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Mean agreement on each set, from 1 / C to 1; None for an empty set."""

    test: float | None
    unlabeled: float | None


def mean_agreement(member_logits: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    """Returns the weight of the members that vote for the label with the most votes, the mean over all examples.

    Args:
        member_logits: [M, n, C] calibrated logits of the members.
        weights: [M] weights whose sum is 1.
    """
    predicted_Mn = member_logits.argmax(axis=2)
    if not predicted_Mn.shape[1]:
        return None
    votes_Cn = np.stack([weights @ (predicted_Mn == label) for label in range(member_logits.shape[2])])
    return round(float(votes_Cn.max(axis=0).mean()), 6)
