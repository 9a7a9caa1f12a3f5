"""How accurate each member is, as estimated from few labels and from the agreement of members on many unlabeled texts.

A few labels say little: the standard error of an accuracy on 32 examples is 6 to 9 points. Members that are right agree
with each other, and thousands of unlabeled texts show how often (Dawid & Skene, 1979; Ratner et al., "Snorkel", VLDB
2018, https://arxiv.org/abs/1711.10160). Letters in names of arrays: M members, n unlabeled examples, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.common.metrics.classification import softmax
from stages.common.models.averaging import log_odds_above_chance

AGREEMENT_EXAMPLES = 32
"""The agreement on the unlabeled data counts as much as this number of labeled examples, whatever its size: errors that
members have in common make it too high.
"""
MIN_VOTE = 1e-3
"""Vote of a member at chance among the others, so that there is always something to agree with."""


def estimate_accuracies(
    member_logits: NDArray[np.float64], held_out: Sequence[float | None], groups: Sequence[str], num_examples: int
) -> list[float | None]:
    """Returns the estimated accuracy of each member, [M].

    It is the mean of its held-out accuracy and of its agreement with the average of the members of other groups,
    weighted by numbers of examples. `held_out` itself if there is one member, or no unlabeled example.

    Args:
        member_logits: [M, n, C] calibrated logits of the unlabeled examples.
        held_out: [M] accuracy of each member on held-out labeled examples; None if nothing could be held out.
        groups: [M] name of the group of each member. Members of one group, which use the same language model, make the
            same errors. If there is one group only, the others are all other members.
        num_examples: Number of held-out examples.
    """
    num_members, num_unlabeled, num_labels = member_logits.shape
    if num_members == 1 or not num_unlabeled:
        return list(held_out)
    known = [accuracy for accuracy in held_out if accuracy is not None]
    mean = sum(known) / len(known) if known else 1 / num_labels
    counts_M = np.array([0 if accuracy is None else num_examples for accuracy in held_out])
    share_M = counts_M / (counts_M + AGREEMENT_EXAMPLES)
    held_out_M = np.array([mean if accuracy is None else accuracy for accuracy in held_out])
    shrunk_M = share_M * held_out_M + (1 - share_M) * mean
    votes_M = log_odds_above_chance(shrunk_M, counts_M + AGREEMENT_EXAMPLES, num_labels) + MIN_VOTE
    is_other_MM = np.array([[one != other for other in groups] for one in groups])
    if not is_other_MM.any():
        is_other_MM = ~np.eye(num_members, dtype=bool)
    others_MnC = np.einsum("mk,k,knc->mnc", is_other_MM.astype(float), votes_M, softmax(member_logits), optimize=True)
    agreement_M = (others_MnC.argmax(axis=2) == member_logits.argmax(axis=2)).mean(axis=1)
    estimated_M = share_M * held_out_M + (1 - share_M) * agreement_M
    return [round(float(accuracy), 6) for accuracy in estimated_M]
