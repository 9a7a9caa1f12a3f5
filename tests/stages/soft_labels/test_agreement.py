"""Agreement of members: the weight of the label with the most votes."""

from __future__ import annotations

import numpy as np
import pytest

from stages.soft_labels.agreement import mean_agreement


def test_agreement_is_the_weight_of_the_label_with_the_most_votes() -> None:
    predicted_Mn = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 2]])
    logits_MnC = np.eye(3)[predicted_Mn]
    # all members; 0.3 + 0.2 for label 1, as much as for label 0; 0.5 for label 0
    assert mean_agreement(logits_MnC, np.array([0.5, 0.3, 0.2])) == pytest.approx((1 + 0.5 + 0.5) / 3, abs=1e-6)
    assert mean_agreement(logits_MnC, np.array([0.0, 1.0, 0.0])) == 1


def test_no_texts_have_no_agreement() -> None:
    assert mean_agreement(np.zeros((2, 0, 3)), np.array([0.5, 0.5])) is None
