"""PET's auxiliary loss: masked language modeling on unlabeled examples under the pattern, against forgetting.

Schick & Schütze, EACL 2021, section 3.2: the loss of a step is (1 - weight) * label loss + weight * MLM loss. 15% of
the tokens are chosen; 80% of them are replaced by the mask, 10% by a random token, 10% stay (Devlin et al., NAACL
2019). The MLM loss is the mean over all chosen tokens of a step. In the original implementation each micro-batch has
its own mean, so there a token of a short text counts more. Letters in names of tensors: B texts, L length, M hidden
tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from stages.common.patterns.encoding import Encoded

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


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A text with hidden tokens."""

    encoded: Encoded
    targets: tuple[int, ...]
    """The original id of each hidden token; elsewhere IGNORED."""

    @property
    def num_targets(self) -> int:
        """Number of hidden tokens."""
        return sum(target != IGNORED for target in self.targets)


def mask_texts(classifier: ClozeClassifier, examples: Sequence[Example], probability: float) -> list[MaskedText]:
    """Hides tokens of pattern-formatted texts. `probability` is that of `mask_tokens`."""
    backbone = classifier.backbone
    encoded = [cloze for item in examples for cloze in classifier.encode(item)]
    batch = backbone.batch(encoded)
    special = torch.tensor(backbone.tokenizer.all_special_ids, device=batch.input_ids.device)
    may_change_BL = batch.attention_mask.bool() & ~torch.isin(batch.input_ids, special)
    # The embeddings may be padded beyond the vocabulary; the additional rows were never trained.
    vocabulary_size = min(len(backbone.tokenizer), num_embeddings(backbone.model))
    masked = mask_tokens(
        batch.input_ids, may_change_BL, int(backbone.tokenizer.mask_token_id), vocabulary_size, probability
    )
    texts = []
    for row, item in enumerate(encoded):
        start = int(batch.mask_position[row]) - item.mask_position
        inputs, targets = (tuple(ids_BL[row, start : start + len(item.ids)].tolist()) for ids_BL in masked)
        texts.append(MaskedText(replace(item, ids=inputs), targets))
    return texts


def token_log_likelihoods(classifier: ClozeClassifier, texts: Sequence[MaskedText]) -> Tensor:
    """Returns the log-likelihoods of the hidden tokens of all texts, in order, [M].

    Only these positions go through the LM head.
    """
    backbone = classifier.backbone
    items = [text.encoded for text in texts]
    prompt = None if classifier.prompt is None else classifier.prompt(items)
    encoded = backbone.batch(items, prompt)
    targets_BL = torch.full_like(encoded.input_ids, IGNORED)
    for row, text in enumerate(texts):
        start = int(encoded.mask_position[row]) - text.encoded.mask_position
        targets_BL[row, start : start + len(text.targets)] = torch.tensor(text.targets, device=targets_BL.device)
    chosen_BL = targets_BL != IGNORED
    with autocast(classifier.autocast):
        logits_MV = backbone.lm_head(backbone.hidden_states(encoded, prompt)[chosen_BL]).float()
    return -F.cross_entropy(logits_MV, targets_BL[chosen_BL], reduction="none")


def mlm_loss(classifier: ClozeClassifier, part: Sequence[MaskedText], batch: Sequence[MaskedText]) -> Tensor:
    """Returns the share of a part in the mean cross-entropy at the hidden tokens of a batch."""
    num_targets = sum(text.num_targets for text in batch)
    return -token_log_likelihoods(classifier, part).sum() / max(num_targets, 1)  # there may be no token to hide


@dataclass(frozen=True, slots=True)
class MlmLoss:
    """The auxiliary loss on random unlabeled examples."""

    classifier: ClozeClassifier
    unlabeled_set: Sequence[Example]
    config: MlmConfig

    def __post_init__(self) -> None:
        """Checks that there are unlabeled examples.

        Raises:
            InputError: there are none.
        """
        if not self.unlabeled_set:
            raise InputError(
                "the auxiliary loss requires unlabeled data.", "Set data.unlabeled, or remove mlm.", key="mlm"
            )

    @property
    def weight(self) -> float:
        """Factor of the loss."""
        return self.config.weight

    def draw(self, batch: Sequence[LabeledCloze]) -> list[tuple[MaskedText, ...]]:
        """Draws the unlabeled examples of a step and their hidden tokens; divides them among the labeled examples."""
        rows = torch.randint(len(self.unlabeled_set), (self.config.batch_size,)).tolist()
        masked = mask_texts(self.classifier, [self.unlabeled_set[row] for row in rows], self.config.mlm_probability)
        ends = [round(len(masked) * (number + 1) / len(batch)) for number in range(len(batch))]
        return [tuple(masked[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def loss(self, part: Sequence[tuple[MaskedText, ...]], batch: Sequence[tuple[MaskedText, ...]]) -> Tensor:
        """Returns the share of a part."""
        texts, all_texts = ([text for item in items for text in item] for items in (part, batch))
        # All workers must run the same number of passes, so a part without texts repeats one that does not count.
        return mlm_loss(self.classifier, texts or all_texts[:1], all_texts) * bool(texts)
