"""Losses of classification, and losses of batches that are split: into micro-batches, and among workers.

A loss is a weighted mean over its whole batch. The mean of the means of the parts is another number if the parts have
different weights, such as numbers of words. So a loss function gets the part and the batch, and returns the share of
the part: the shares of all parts add up to the loss, and their gradients to its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.config import MULTI_LABEL, ProblemType

Item = TypeVar("Item")
ComputeLoss = Callable[[list[Item], list[Item]], Tensor]
"""A part of a batch, and the batch -> what the part contributes to the scalar loss of the batch."""


def classification_loss(
    problem_type: ProblemType, logits_BC: Tensor, gold_B: Tensor, weight_C: Tensor | None = None
) -> Tensor:
    """Returns the mean cross-entropy of examples or, of several labels per example, of all decisions.

    Args:
        problem_type: One label per example, or any number.
        logits_BC: Logits.
        gold_B: [B] indices of the labels, or [B, C] of 0 and 1.
        weight_C: Weight of each label, for one label per example.
    """
    if problem_type == MULTI_LABEL:
        return F.binary_cross_entropy_with_logits(logits_BC, gold_B.to(logits_BC))
    return F.cross_entropy(logits_BC, gold_B, weight=weight_C)


def mean_share(part: Sequence[object], batch: Sequence[object]) -> float:
    """Returns the factor that turns a mean over the items of `part` into its share of the mean over `batch`."""
    return len(part) / len(batch)


def log_one_minus_exp(log_p: Tensor) -> Tensor:
    """Returns log(1 - p) for logarithms of probabilities; it is finite also where p rounds to 1.

    Each of the two formulas is precise where it is used (Mächler, 2012, "Accurately Computing log(1 - exp(-|a|))").
    """
    below_1 = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    is_large = below_1 > -math.log(2)
    return torch.where(is_large, torch.log(-torch.expm1(below_1)), torch.log1p(-below_1.exp()))
