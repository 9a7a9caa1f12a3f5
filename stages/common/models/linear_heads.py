"""Linear heads: one that is trained on hidden states at the mask, and logistic regression that is fitted in one go.

P-tuning v2 (Liu et al., ACL 2022, section 3.3) replaces the verbalizer by such a head; the backbone stays frozen. The
logistic regression takes soft targets. It finds what scikit-learn's LogisticRegression finds if every example is
repeated once per label and weighted by its probability. Letters in names of tensors: B examples, C labels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.common.config import MULTI_LABEL, SINGLE_LABEL, ProblemType
from stages.common.errors import InputError


class LinearWeights(NamedTuple):
    """`weight` [C, D] and `bias` [C] of logits, float32."""

    weight: Tensor
    bias: Tensor


def fit_logistic_regression(
    features: Tensor,
    targets: Tensor,
    regularization_c: float,
    weights: Tensor | None = None,
    *,
    problem_type: ProblemType = SINGLE_LABEL,
) -> LinearWeights:
    """Fits logistic regression with an L2 penalty on the weights and none on the bias: multinomial or, for several
    labels per example, one-vs-rest.

    Unlike scikit-learn, it makes no C-fold copies of the examples, and has a column for labels that never occur.

    Args:
        features: [n, D].
        targets: [n, C] probabilities.
        regularization_c: scikit-learn's C: weight of the examples against the penalty; higher fits closer.
        weights: [n] weight of each example. Default: 1.
        problem_type: One label per example, or any number.
    """
    features, targets = features.double(), targets.double()
    weights = torch.ones(len(features), dtype=torch.float64) if weights is None else weights.double()
    num_labels = targets.shape[1]
    is_one_vs_rest = problem_type == MULTI_LABEL
    # For two labels scikit-learn fits a single vector; the penalty of two mirrored ones is half as large.
    penalty_factor = 1.0 if num_labels == 2 and not is_one_vs_rest else 0.5
    weight_CD = torch.zeros(num_labels, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_CD, bias_C], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def losses_of(logits: Tensor) -> Tensor:
        if is_one_vs_rest:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
        return F.cross_entropy(logits, targets, reduction="none")

    def compute_loss() -> Tensor:
        solver.zero_grad()
        losses = losses_of(F.linear(features, weight_CD, bias_C))
        loss = (weights * losses).sum() / weights.sum() + penalty_factor * weight_CD.square().sum() / (
            regularization_c * weights.sum()
        )
        loss.backward()
        return loss

    solver.step(compute_loss)
    return LinearWeights(weight_CD.detach().float(), bias_C.detach().float())


HEAD_FILE = "head.safetensors"


class LinearHead(torch.nn.Module):
    """Maps hidden states [B, D] to label scores [B, C] in float32, after normalizing them to unit variance."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, num_labels)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Returns label scores, [B, C]."""
        scores: Tensor = self.linear(self.norm(states.float()))
        return scores


def save_head(head: LinearHead, labels: Sequence[str], folder: Path) -> None:
    """Writes the head to `folder`, with the labels of its rows."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(weights, folder / HEAD_FILE, metadata={"labels": "\n".join(labels)})


def load_head(folder: Path, width: int, labels: Sequence[str]) -> LinearHead | None:
    """Returns the head in `folder`, or None if there is no head.

    Raises:
        InputError: the head was trained for another width or other labels.
    """
    if not (folder / HEAD_FILE).exists():
        return None
    with safe_open(folder / HEAD_FILE, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head_labels = (file.metadata() or {}).get("labels", "").split("\n")
    if weights["linear.weight"].shape != (len(labels), width) or head_labels != list(labels):
        raise InputError(
            f"the head in {folder} has width {weights['linear.weight'].shape[1]} and labels {head_labels}; "
            f"the backbone has width {width}, the task has labels {list(labels)}.",
            "Use it with the backbone and task that it was trained on.",
        )
    head = LinearHead(width, len(labels))
    head.load_state_dict(weights)
    return head
