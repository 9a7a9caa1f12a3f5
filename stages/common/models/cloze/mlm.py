"""PET's auxiliary loss: masked language modeling on unlabeled examples under the pattern, against forgetting.

Schick & Schütze, EACL 2021, section 3.2: the loss of a step is (1 - weight) * label loss + weight * MLM loss. 15% of
the tokens are chosen; 80% of them are replaced by the mask, 10% by a random token, 10% stay (Devlin et al., NAACL
2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.batching import autocast
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.config import MlmConfig

IGNORED = -100
"""Target of a place that is not predicted."""


def mask_tokens(
    ids: Tensor, may_change: Tensor, mask_id: int, vocabulary_size: int, share: float
) -> tuple[Tensor, Tensor]:
    """Chooses tokens and hides them; draws from torch's global generator.

    Args:
        ids: [B, L] token ids.
        may_change: [B, L] bool: neither padding nor special tokens nor the pattern's own mask.
        mask_id: Id of the mask token.
        vocabulary_size: Random tokens are drawn below it.
        share: Share of the tokens that are chosen; at least one a text that has any.

    Returns:
        inputs [B, L], and targets [B, L] with IGNORED where nothing is predicted.
    """

    keys = torch.rand(ids.shape).to(ids.device).masked_fill(~may_change, 2.0)
    surely = (keys == keys.min(dim=1, keepdim=True).values) & may_change
    chosen = ((keys < share) & may_change) | surely
    kind = torch.rand(ids.shape).to(ids.device)
    inputs = torch.where(chosen & (kind < 0.8), mask_id, ids)
    random = torch.randint(vocabulary_size, ids.shape).to(ids.device)
    inputs = torch.where(chosen & (kind >= 0.9), random, inputs)
    return inputs, torch.where(chosen, ids, IGNORED)


def mlm_loss(classifier: ClozeClassifier, examples: Sequence[Example], share: float) -> Tensor:
    """Mean cross-entropy at the chosen places of pattern-formatted texts; the LM head is applied there alone."""

    backbone = classifier.backbone
    batch = backbone.batch([cloze for item in examples for cloze in classifier.encode(item)])
    special = torch.tensor(backbone.tokenizer.all_special_ids, device=batch.input_ids.device)
    may_change = batch.attention_mask.bool() & ~torch.isin(batch.input_ids, special)
    # a table may be padded beyond the vocabulary: those rows were never trained
    vocabulary_size = min(len(backbone.tokenizer), backbone.model.get_input_embeddings().num_embeddings)
    batch.input_ids, targets = mask_tokens(
        batch.input_ids, may_change, int(backbone.tokenizer.mask_token_id), vocabulary_size, share
    )
    chosen = targets != IGNORED
    with autocast(classifier.autocast):
        logits = backbone.lm_head(backbone.hidden_states(batch)[chosen]).float()
    summed = F.cross_entropy(logits, targets[chosen], reduction="sum")
    return summed / chosen.sum().clamp(min=1)  # texts without a word to hide have no loss


def with_mlm(
    classifier: ClozeClassifier, unlabeled_set: Sequence[Example], config: MlmConfig
) -> Callable[[list[LabeledCloze]], Tensor]:
    """The loss of a batch of labelled items, mixed with the auxiliary one on texts drawn from the pile.

    Texts are drawn from torch's global generator, which the loop seeds for each step: a run that goes on from a
    checkpoint draws the same ones. Each micro-batch draws its own.

    Raises:
        InputError: the pile is empty.
    """

    if not unlabeled_set:
        raise InputError("the auxiliary loss reads unlabelled texts, and there are none.", "Add some.", key="mlm")

    def loss_of(batch: list[LabeledCloze]) -> Tensor:
        rows = torch.randint(len(unlabeled_set), (config.batch_size,)).tolist()
        auxiliary = mlm_loss(classifier, [unlabeled_set[row] for row in rows], config.mlm_probability)
        return (1 - config.weight) * classifier.loss(batch) + config.weight * auxiliary

    return loss_of
