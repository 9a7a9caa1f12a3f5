"""Tests of linear heads; logistic regression is compared with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.common.errors import InputError
from stages.common.models.linear_heads import LinearHead, fit_logistic_regression, load_head, save_head


@pytest.mark.parametrize("num_labels", [2, 3, 5])
def test_logistic_regression_equals_scikit_learn_on_repeated_examples(num_labels: int) -> None:
    drawn = torch.Generator().manual_seed(num_labels)
    features = torch.randn(60, 12, generator=drawn)
    targets = torch.softmax(2 * torch.randn(60, num_labels, generator=drawn), dim=1)
    weights = torch.rand(60, generator=drawn) * 3
    weight, bias = fit_logistic_regression(features, targets, 0.7, weights)
    assert (weight.shape, bias.shape) == ((num_labels, 12), (num_labels,))
    expected = LogisticRegression(C=0.7, tol=1e-9, max_iter=10_000).fit(
        np.tile(features.double().numpy(), (num_labels, 1)),
        np.repeat(range(num_labels), 60),
        sample_weight=(targets * weights[:, None]).T.double().numpy().ravel(),
    )
    actual = torch.softmax(features @ weight.T + bias, dim=1).numpy()
    assert actual == pytest.approx(expected.predict_proba(features.double().numpy()), abs=1e-4)


def test_logistic_regression_never_predicts_an_absent_label() -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    gold = torch.nn.functional.one_hot((features[:, 0] > 0).long() * 2, 4)  # labels 0 and 2 of 4
    weight, bias = fit_logistic_regression(features, gold, 5.0)
    assert weight.shape == (4, 6)
    probabilities = torch.softmax(features @ weight.T + bias, dim=1)
    assert probabilities[:, [1, 3]].max() < 1e-5
    assert weight[[1, 3]].abs().max() < 1e-3
    # For two labels the penalty is twice as large.
    separate, alone_bias = fit_logistic_regression(features, gold[:, [0, 2]], 5.0 * 2)
    expected = torch.softmax(features @ separate.T + alone_bias, dim=1)
    assert torch.allclose(probabilities[:, [0, 2]], expected, atol=1e-4)


def test_load_head_rejects_other_labels(tmp_path: Path) -> None:
    save_head(LinearHead(32, 2), ("rotten", "fresh"), tmp_path)
    assert load_head(tmp_path, 32, ("rotten", "fresh")) is not None
    for width, labels in ((16, ("rotten", "fresh")), (32, ("fresh", "rotten")), (32, ("a", "b", "c"))):
        with pytest.raises(InputError, match="the head in"):
            load_head(tmp_path, width, labels)
    assert load_head(tmp_path / "nothing", 32, ("a", "b")) is None
