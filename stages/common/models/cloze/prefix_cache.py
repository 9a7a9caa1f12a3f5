"""Trains a prompt at the end of the input over cached keys and values of the text before it.

A causal model reads the text before the first soft vector independently of the prompt, so its keys and values are the
same in every step. They are computed once and cached; a step reads the prompt and the text after it. Gradients equal
those of a full pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.patterns.encoding import Encoded

MAX_BYTES = 2 << 30
"""Keys and values that are kept at the most; texts beyond are read anew each time."""


class CachedTexts:
    """Scores encoded texts as its classifier does, over kept keys and values."""

    def __init__(self, classifier: ClozeClassifier, most_bytes: int = MAX_BYTES) -> None:
        self.classifier = classifier
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def loss(self, batch: list[LabeledCloze]) -> Tensor:
        """Loss of a batch, as `ClozeClassifier.loss`."""
        items = [item for labelled in batch for item in labelled.cloze]
        classifier = self.classifier
        with autocast(classifier.autocast):
            words = self._word_scores(items)
        return classifier.compute_loss(classifier.answers(words, len(batch)), batch)

    def _word_scores(self, items: Sequence[Encoded]) -> Tensor:
        """[B, W] scores of the label words."""
        backbone, verbalizer = self.classifier.backbone, self.classifier.verbalizer
        hidden_BD = self._read(items)
        ids = [word[0] for word in verbalizer.flat]
        if verbalizer.needs_likelihood:
            return backbone.lm_head(hidden_BD).float().log_softmax(dim=1)[:, ids]
        return backbone.label_word_logits(hidden_BD, ids)

    def _read(self, items: Sequence[Encoded]) -> Tensor:
        """[B, D] last hidden state at the mask: the prompt and what follows it are read over the cache."""

        backbone = self.classifier.backbone
        kept = self._keys_and_values(items)
        longest = max(item.shape[-2] for item in kept)
        layers = torch.stack([F.pad(item, (0, 0, longest - item.shape[-2], 0)) for item in kept])
        before = torch.tensor([[0] * (longest - item.shape[-2]) + [1] * item.shape[-2] for item in kept])
        tails = [_tail(item) for item in items]
        batch = backbone.batch(tails)
        prompt: SoftInput = self.classifier.prompt()
        embeddings = prompt.embedded(backbone.model.get_input_embeddings()(batch.input_ids), batch.soft_positions)
        attention = torch.cat([before.to(backbone.device), batch.attention_mask], dim=1)
        cache = SoftInput(layers=layers).cache(len(items), layers.dtype)
        return backbone.continue_from_cache(embeddings, attention, cache)[:, -1]

    def _keys_and_values(self, items: Sequence[Encoded]) -> list[Tensor]:
        """[K, 2, H, l, d] for each text, of what stands before its first soft vector."""
        stems = [item.ids[: item.soft_positions[0]] for item in items]
        missing = list(dict.fromkeys(stem for stem in stems if stem not in self._kept))
        found = dict(zip(missing, self._computed(missing), strict=True)) if missing else {}
        for stem, item in found.items():
            size = item.numel() * item.element_size()
            if self.num_bytes + size <= self.most_bytes:
                self._kept[stem] = item
                self.num_bytes += size
        return [self._kept[stem] if stem in self._kept else found[stem] for stem in stems]

    def _computed(self, stems: Sequence[tuple[int, ...]]) -> list[Tensor]:

        backbone = self.classifier.backbone
        with torch.no_grad():
            batch = backbone.batch([Encoded(stem, (0,) * len(stem), len(stem) - 1) for stem in stems])
            cache = DynamicCache()
            table = backbone.model.get_input_embeddings()
            backbone.continue_from_cache(table(batch.input_ids), batch.attention_mask, cache)
            layers = torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
        length = layers.shape[-2]
        return [layers[:, :, row, :, length - len(stem) :].clone() for row, stem in enumerate(stems)]


def cached_loss(classifier: ClozeClassifier) -> Callable[[list[LabeledCloze]], Tensor]:
    """The loss of a classifier, over kept keys and values where that can be."""
    return CachedTexts(classifier).loss if can_be_cached(classifier) else classifier.loss


def can_be_cached(classifier: ClozeClassifier) -> bool:
    """Whether some text stands before the first soft vector, and nothing but the prompt trains on a causal model."""
    pattern = classifier.encoder.pattern
    return (
        classifier.backbone.family == "causal"
        and classifier.prompt is not None
        and classifier.prompt.position == "inside"
        and pattern.soft_is_behind_a_field
        and pattern.ends_in_mask
        and classifier.head is None
        and classifier.verbalizer.longest == 1
        and not classifier.backbone.is_partitioned  # what one worker has kept another would still have to read
        and not any(weight.requires_grad for weight in classifier.backbone.model.parameters())
    )


def _tail(item: Encoded) -> Encoded:
    """What is read anew: from the first soft vector on."""
    first = item.soft_positions[0]
    return Encoded(
        item.ids[first:],
        item.token_type_ids[first:],
        item.mask_position - first,
        soft_positions=tuple(place - first for place in item.soft_positions),
    )
