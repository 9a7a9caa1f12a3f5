"""Losses over the scores of labels: the loss of an example for each label that could be the right one.

Cross-entropy over the labels is PET's (Schick & Schütze, EACL 2021, section 3.1); the hinge loss, for label words of
several tokens, that of its second paper (NAACL 2021, section 3.1). Cross-entropy over the vocabulary is that of prompt
tuning (Lester et al., EMNLP 2021, section 2). The decoupled label loss is ADAPET's (Tam et al., EMNLP 2021, section
3.1). Letters in names of tensors: B examples, C labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stages.common.losses import log_one_minus_exp
from stages.common.models.cloze.config import LossKind


def label_losses(scores_BC: Tensor) -> Tensor:
    """Returns the cross-entropy over the labels only, [B, C].

    Args:
        scores_BC: Label scores.
    """
    return -scores_BC.log_softmax(dim=1)


def hinge_losses(scores_BC: Tensor) -> Tensor:
    """Returns the hinge loss, [B, C].

    The right label must be likelier than each other label by a factor of e. The loss is the sum over the other labels
    of max(0, 1 - score_right + score_other).

    Args:
        scores_BC: Log-likelihoods of labels, whose words have different numbers of tokens.
    """
    gaps_BCC = (1 - scores_BC[:, :, None] + scores_BC[:, None, :]).clamp(min=0)
    is_other_CC = 1 - torch.eye(scores_BC.shape[1], dtype=scores_BC.dtype, device=scores_BC.device)
    return (gaps_BCC * is_other_CC).sum(dim=2)


def vocabulary_losses(scores_BC: Tensor) -> Tensor:
    """Returns the cross-entropy over the vocabulary, [B, C]: the negative log-likelihood of a label's words.

    Args:
        scores_BC: Log-likelihoods of labels among all words of the vocabulary.
    """
    return -scores_BC


def decoupled_losses(scores_BC: Tensor) -> Tensor:
    """Returns the decoupled label loss, [B, C]: the mean over the labels of a binary cross-entropy.

    The probability of each label is that of its words among all words of the vocabulary, so probabilities of labels
    need not sum to 1. That of the right label is pushed to 1, and that of each other label to 0. The paper has the sum
    over the labels, its implementation the mean.

    Args:
        scores_BC: Log-likelihoods of labels among all words of the vocabulary.
    """
    if_wrong_BC = -log_one_minus_exp(scores_BC)
    return (if_wrong_BC.sum(dim=1, keepdim=True) - if_wrong_BC - scores_BC) / scores_BC.shape[1]


LOSSES: dict[LossKind, Callable[[Tensor], Tensor]] = {
    "cross_entropy": label_losses,
    "hinge": hinge_losses,
    "vocabulary": vocabulary_losses,
    "decoupled": decoupled_losses,
}
"""Kind of loss -> label scores [B, C] to the loss [B, C] if a label is the right one."""
