"""Losses over the scores of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def label_loss(scores: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy over the labels only (PET, Schick & Schütze, EACL 2021, section 3.1).

    Args:
        scores: [B, C].
        gold: [B] indices of the right labels.
    """
    import torch.nn.functional as F  # noqa: N812

    return F.cross_entropy(scores, gold)


def hinge_loss(scores: Tensor, gold: Tensor) -> Tensor:
    """The right label must be likelier than each wrong one by a factor of e (PET, Schick & Schütze, NAACL 2021, section
    3.1): sum over wrong labels of max(0, 1 - score_right + score_wrong), mean over the batch.

    Args:
        scores: [B, C] log-likelihoods of labels, whose words have different numbers of tokens.
        gold: [B] indices of the right labels.
    """
    import torch

    gaps_BC = 1 - scores.gather(1, gold[:, None]) + scores
    is_wrong_BC = torch.ones_like(scores).scatter(1, gold[:, None], 0.0)
    return (gaps_BC.clamp(min=0) * is_wrong_BC).sum(dim=1).mean()
