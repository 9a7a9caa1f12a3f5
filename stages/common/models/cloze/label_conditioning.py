"""ADAPET's auxiliary loss: predicts hidden tokens of a labeled example, given a label at the place of the mask.

Tam et al., "Improving and Simplifying Pattern Exploiting Training", EMNLP 2021, section 3.2. In each step an example
gets a random label. If it is the right one, the probability of each hidden token is pushed to 1, else to 0, by a binary
cross-entropy. As in the original implementation, at least one token and at most a random fraction is hidden, always by
the mask token, and tokens of the pattern may be hidden too; the loss is the mean over all hidden tokens of a step.
Letters in names of tensors: M hidden tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from stages.common.losses import log_one_minus_exp
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.config import LabelConditioningConfig
from stages.common.models.cloze.mlm import IGNORED, MaskedText, token_log_likelihoods
from stages.common.patterns.encoding import Encoded


class ConditionedText(NamedTuple):
    """A text with hidden tokens and the word of a label. `is_right`: True if it is the label of the text."""

    masked: MaskedText
    is_right: bool


@dataclass(frozen=True, slots=True)
class LabelConditioning:
    """The auxiliary loss of a masked model."""

    classifier: ClozeClassifier
    config: LabelConditioningConfig

    @property
    def weight(self) -> float:
        """Factor of the loss."""
        return self.config.weight

    def draw(self, batch: Sequence[LabeledCloze]) -> list[ConditionedText]:
        """Draws a label for each example, and the tokens to hide."""
        words_by_label = self.classifier.verbalizer.words
        drawn = []
        for item in batch:
            label = _random_below(len(words_by_label))
            words = words_by_label[label]
            word = words[_random_below(len(words))]
            masked = self._with_hidden_tokens(item.cloze[0].with_word(word), len(word))
            drawn.append(ConditionedText(masked, is_right=label == item.label))
        return drawn

    def loss(self, part: Sequence[ConditionedText], batch: Sequence[ConditionedText]) -> Tensor:
        """Returns the share of a part in the mean binary cross-entropy at the hidden tokens of a batch."""
        log_M = token_log_likelihoods(self.classifier, [item.masked for item in part])
        is_right_M = torch.tensor(
            [item.is_right for item in part for _ in range(item.masked.num_targets)], device=log_M.device
        )
        losses_M = torch.where(is_right_M, -log_M, -log_one_minus_exp(log_M))
        return losses_M.sum() / max(sum(item.masked.num_targets for item in batch), 1)

    def _with_hidden_tokens(self, encoded: Encoded, num_word_tokens: int) -> MaskedText:
        """Hides random tokens other than special ones, soft vectors and the word of the label, which is at the mask."""
        tokenizer = self.classifier.backbone.tokenizer
        start = encoded.mask_position
        kept = {*encoded.soft_positions, *range(start, start + num_word_tokens)}
        special = set(tokenizer.all_special_ids)
        candidates = [row for row, token in enumerate(encoded.ids) if row not in kept and token not in special]
        limit = float(torch.rand(())) * self.config.max_masked * len(encoded.ids)
        order = torch.randperm(len(candidates)).tolist()
        hidden = {candidates[number] for number in order[: max(int(limit), 2) - 1]}
        ids = tuple(int(tokenizer.mask_token_id) if row in hidden else token for row, token in enumerate(encoded.ids))
        targets = tuple(token if row in hidden else IGNORED for row, token in enumerate(encoded.ids))
        return MaskedText(replace(encoded, ids=ids), targets)


def _random_below(count: int) -> int:
    return int(torch.randint(count, ()))
