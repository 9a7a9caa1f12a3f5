"""PET's auxiliary loss: masked language modeling on unlabeled examples under the pattern, against forgetting.

Schick & Schütze, EACL 2021, section 3.2: the loss of a step is (1 - weight) * label loss + weight * MLM loss. 15% of
the tokens are chosen; 80% of them are replaced by the mask, 10% by a random token, 10% stay (Devlin et al., NAACL
2019). Letters in names of tensors: B texts, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import num_embeddings
from stages.common.models.batching import autocast
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.config import MlmConfig

IGNORED = -100
"""Target of a position that is not predicted."""


class MaskedTokens(NamedTuple):
    """`inputs` [B, L]: token ids, some replaced; `targets` [B, L]: the original ids of these, elsewhere IGNORED."""

    inputs: Tensor
    targets: Tensor


def mask_tokens(
    ids_BL: Tensor, may_change_BL: Tensor, mask_id: int, vocabulary_size: int, probability: float
) -> MaskedTokens:
    """Chooses tokens and hides them; uses torch's global generator.

    Args:
        ids_BL: Token ids.
        may_change_BL: False for padding, special tokens and the pattern's own mask.
        mask_id: Id of the mask token.
        vocabulary_size: Random tokens are drawn below it.
        probability: Probability that a token is chosen; at least one token per text is.
    """
    keys_BL = torch.rand(ids_BL.shape).to(ids_BL.device).masked_fill(~may_change_BL, 2.0)
    is_first_BL = (keys_BL == keys_BL.min(dim=1, keepdim=True).values) & may_change_BL
    chosen_BL = ((keys_BL < probability) & may_change_BL) | is_first_BL
    kind_BL = torch.rand(ids_BL.shape).to(ids_BL.device)
    inputs_BL = torch.where(chosen_BL & (kind_BL < 0.8), mask_id, ids_BL)
    random_BL = torch.randint(vocabulary_size, ids_BL.shape).to(ids_BL.device)
    inputs_BL = torch.where(chosen_BL & (kind_BL >= 0.9), random_BL, inputs_BL)
    return MaskedTokens(inputs_BL, torch.where(chosen_BL, ids_BL, IGNORED))


def mlm_loss(classifier: ClozeClassifier, examples: Sequence[Example], probability: float) -> Tensor:
    """Returns the mean cross-entropy at the chosen positions of pattern-formatted texts.

    Only these positions go through the LM head. `probability` is that of `mask_tokens`.
    """
    backbone = classifier.backbone
    batch = backbone.batch([cloze for item in examples for cloze in classifier.encode(item)])
    special = torch.tensor(backbone.tokenizer.all_special_ids, device=batch.input_ids.device)
    may_change_BL = batch.attention_mask.bool() & ~torch.isin(batch.input_ids, special)
    # The embeddings may be padded beyond the vocabulary; the additional rows were never trained.
    vocabulary_size = min(len(backbone.tokenizer), num_embeddings(backbone.model))
    batch.input_ids, targets_BL = mask_tokens(
        batch.input_ids, may_change_BL, int(backbone.tokenizer.mask_token_id), vocabulary_size, probability
    )
    chosen_BL = targets_BL != IGNORED
    with autocast(classifier.autocast):
        logits = backbone.lm_head(backbone.hidden_states(batch)[chosen_BL]).float()
    loss_sum = F.cross_entropy(logits, targets_BL[chosen_BL], reduction="sum")
    return loss_sum / chosen_BL.sum().clamp(min=1)  # texts without a token to hide have no loss


def with_mlm(
    classifier: ClozeClassifier, unlabeled_set: Sequence[Example], config: MlmConfig
) -> Callable[[list[LabeledCloze]], Tensor]:
    """Returns the label loss of a batch, mixed with the auxiliary loss on random unlabeled examples.

    Unlabeled examples are drawn from torch's global generator, which the training loop seeds for each step: a resumed
    run draws the same ones. Each micro-batch draws separately.

    Raises:
        InputError: there are no unlabeled examples.
    """
    if not unlabeled_set:
        raise InputError("the auxiliary loss requires unlabeled data.", "Set data.unlabeled, or remove mlm.", key="mlm")

    def compute_loss(batch: list[LabeledCloze]) -> Tensor:
        rows = torch.randint(len(unlabeled_set), (config.batch_size,)).tolist()
        auxiliary = mlm_loss(classifier, [unlabeled_set[row] for row in rows], config.mlm_probability)
        return (1 - config.weight) * classifier.loss(batch) + config.weight * auxiliary

    return compute_loss
