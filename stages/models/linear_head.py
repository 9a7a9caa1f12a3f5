"""Logistic regression on soft targets: the head of a frozen encoder, fitted in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fit(features: Tensor, targets: Tensor, strength: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty on the weights, none on the bias.

    It is what scikit-learn's LogisticRegression finds if every text is repeated once a label and weighted by its
    probability, without the C-fold copies, and with a column for labels that never occur.

    Args:
        features: [n, D].
        targets: [n, C] probabilities.
        strength: scikit-learn's C: how much the texts count against the penalty; higher fits closer.
        weights: [n] how many texts each row stands for; None: one.

    Returns:
        weight [C, D] and bias [C] of logits, float32.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    features, targets = features.double(), targets.double()
    weights = torch.ones(len(features), dtype=torch.float64) if weights is None else weights.double()
    num_labels = targets.shape[1]
    # two mirrored vectors are half as dear as the single one that scikit-learn fits for two labels
    dear = 1.0 if num_labels == 2 else 0.5
    weight = torch.zeros(num_labels, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        surprise = F.cross_entropy(F.linear(features, weight, bias), targets, reduction="none")
        value = (weights * surprise).sum() / weights.sum() + dear * weight.square().sum() / (strength * weights.sum())
        value.backward()
        return value

    solver.step(loss)
    return weight.detach().float(), bias.detach().float()
