"""Linear heads: one that is trained on hidden states at the mask, and logistic regression that is fitted in one go.

P-tuning v2 (Liu et al., ACL 2022, section 3.3) replaces the verbalizer by such a head; the backbone stays frozen. The
logistic regression takes soft targets. It finds what scikit-learn's LogisticRegression finds if every example is
repeated once per label and weighted by its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.common.errors import InputError


def fit_logistic_regression(
    features: Tensor, targets: Tensor, regularization_c: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty on the weights, none on the bias.

    It is what scikit-learn's LogisticRegression finds if every text is repeated once a label and weighted by its
    probability, without the C-fold copies, and with a column for labels that never occur.

    Args:
        features: [n, D].
        targets: [n, C] probabilities.
        regularization_c: scikit-learn's C: how much the texts count against the penalty; higher fits closer.
        weights: [n] how many texts each row stands for; None: one.

    Returns:
        weight [C, D] and bias [C] of logits, float32.
    """

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
        value = (weights * surprise).sum() / weights.sum() + dear * weight.square().sum() / (
            regularization_c * weights.sum()
        )
        value.backward()
        return value

    solver.step(loss)
    return weight.detach().float(), bias.detach().float()


HEAD_FILE = "head.safetensors"


class LinearHead(torch.nn.Module):
    """[B, D] -> [B, C], in float32; states are brought to unit variance first, whatever the backbone's scale."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, num_labels)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Scores of labels, [B, C]."""
        made: Tensor = self.linear(self.norm(states.float()))
        return made


def save_head(head: LinearHead, labels: Sequence[str], folder: Path) -> None:
    """Writes the head to `folder`, with the labels that its rows stand for."""

    weights = {name: item.detach().cpu().contiguous() for name, item in head.state_dict().items()}
    save_file(weights, folder / HEAD_FILE, metadata={"labels": "\n".join(labels)})


def load_head(folder: Path, width: int, labels: Sequence[str]) -> LinearHead | None:
    """The head in `folder`, or None if there is none.

    Raises:
        InputError: it was made for a backbone of another width, or for other labels.
    """

    if not (folder / HEAD_FILE).exists():
        return None
    with safe_open(folder / HEAD_FILE, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = (file.metadata() or {}).get("labels", "").split("\n")
    if weights["linear.weight"].shape != (len(labels), width) or known != list(labels):
        raise InputError(
            f"the head in {folder} reads states of width {weights['linear.weight'].shape[1]} and tells {known} apart; "
            f"the backbone has {width}, the task {list(labels)}.",
            "Use it with the backbone and task that it was trained on.",
        )
    head = LinearHead(width, len(labels))
    head.load_state_dict(weights)
    return head
