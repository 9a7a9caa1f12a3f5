"""Losses of batches that are split: into micro-batches, and among workers.

A loss is a weighted mean over its whole batch. The mean of the means of the parts is another number if the parts have
different weights, such as numbers of words. So a loss function gets the part and the batch, and returns the share of
the part: the shares of all parts add up to the loss, and their gradients to its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")
ComputeLoss = Callable[[list[Item], list[Item]], Tensor]
"""A part of a batch, and the batch -> what the part contributes to the scalar loss of the batch."""


def mean_share(part: Sequence[object], batch: Sequence[object]) -> float:
    """Returns the factor that turns a mean over the items of `part` into its share of the mean over `batch`."""
    return len(part) / len(batch)
