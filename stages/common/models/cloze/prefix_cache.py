"""Trains a prompt at the end of the input over cached keys and values of the text before it.

A causal model reads the text before the first soft vector independently of the prompt, so its keys and values are the
same in every step. They are computed once and cached; a step reads only the prompt and the text after it. Gradients
equal those of a full pass. Letters in names of tensors: B texts, P cached positions, D hidden size, W label words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from stages.common.losses import ComputeLoss, mean_share
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.label_word_scores import next_token_scores
from stages.common.patterns.encoding import Encoded

MAX_BYTES = 2 << 30
"""Maximum size of the cached keys and values; texts that do not fit are read again in every step."""

Ids = tuple[int, ...]


class CachedTexts:
    """Computes the loss of a classifier over cached keys and values."""

    def __init__(self, classifier: ClozeClassifier, max_bytes: int = MAX_BYTES) -> None:
        assert isinstance(classifier.backbone, CausalBackbone)
        assert classifier.prompt is not None
        self.classifier = classifier
        self.prompt = classifier.prompt
        self.backbone = classifier.backbone
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._cache: dict[Ids, Tensor] = {}

    def loss(self, part: list[LabeledCloze], batch: list[LabeledCloze] | None = None) -> Tensor:
        """Returns what a part of a batch contributes to its loss, as `ClozeClassifier.loss`."""
        items = [item for labeled in part for item in labeled.cloze]
        classifier = self.classifier
        with autocast(classifier.autocast):
            likelihood = classifier.needs_likelihood(training=True)
            hidden_BD = self._mask_hidden_state(items)
            scores_BW = next_token_scores(self.backbone, classifier.verbalizer, hidden_BD, likelihood=likelihood)
        scores_BC = classifier.answers(scores_BW, len(part))
        return classifier.compute_loss(scores_BC, part) * mean_share(part, batch or part)

    def _mask_hidden_state(self, items: Sequence[Encoded]) -> Tensor:
        """Returns the last hidden state at the mask, [B, D]; reads the prompt and the text after it over the cache."""
        backbone = self.backbone
        cached = self._keys_and_values(items)
        longest = max(layers.shape[-2] for layers in cached)
        padded = torch.stack([F.pad(layers, (0, 0, longest - layers.shape[-2], 0)) for layers in cached])
        mask_BP = torch.tensor([[0] * (longest - layers.shape[-2]) + [1] * layers.shape[-2] for layers in cached])
        batch = backbone.batch([_from_first_soft_vector(item) for item in items])
        prompt = self.prompt(items)
        embeddings = prompt.embedded(backbone.model.get_input_embeddings()(batch.input_ids), batch.soft_positions)
        attention = torch.cat([mask_BP.to(backbone.device), batch.attention_mask], dim=1)
        cache = SoftInput(layers=padded).cache(len(items), padded.dtype)
        return backbone.continue_from_cache(embeddings, attention, cache)[:, -1]

    def _keys_and_values(self, items: Sequence[Encoded]) -> list[Tensor]:
        """Returns keys and values of the text before the first soft vector, [K, 2, H, l, d] per text."""
        prefixes = [item.ids[: item.soft_positions[0]] for item in items]
        missing = list(dict.fromkeys(prefix for prefix in prefixes if prefix not in self._cache))
        computed = dict(zip(missing, self._compute(missing), strict=True)) if missing else {}
        for prefix, layers in computed.items():
            size = layers.numel() * layers.element_size()
            if self.num_bytes + size <= self.max_bytes:
                self._cache[prefix] = layers
                self.num_bytes += size
        return [self._cache[prefix] if prefix in self._cache else computed[prefix] for prefix in prefixes]

    def _compute(self, prefixes: Sequence[Ids]) -> list[Tensor]:
        with torch.no_grad():
            batch = self.backbone.batch([Encoded(ids, (0,) * len(ids), len(ids) - 1) for ids in prefixes])
            cache = DynamicCache()
            table = self.backbone.model.get_input_embeddings()
            self.backbone.continue_from_cache(table(batch.input_ids), batch.attention_mask, cache)
            layers = torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
        length = layers.shape[-2]
        return [layers[:, :, row, :, length - len(ids) :].clone() for row, ids in enumerate(prefixes)]


def cached_loss(classifier: ClozeClassifier, *, backbone_dropout: bool = False) -> ComputeLoss[LabeledCloze]:
    """Returns the loss of a classifier, over cached keys and values if possible.

    With dropout in the backbone, the keys and values of a text differ in every step.
    """
    return CachedTexts(classifier).loss if can_be_cached(classifier) and not backbone_dropout else classifier.loss


def can_be_cached(classifier: ClozeClassifier) -> bool:
    """Returns True if a field is before the first soft vector, and only the prompt of a causal model is trained.

    A prompt that depends on the text reads all of it in every step.
    """
    pattern = classifier.encoder.pattern
    return (
        isinstance(classifier.backbone, CausalBackbone)
        and classifier.backbone.traits.continues_cache
        and classifier.prompt is not None
        and classifier.prompt.position == "inside"
        and not classifier.prompt.reads_text
        and pattern.soft_follows_field
        and pattern.ends_in_mask
        and classifier.head is None
        and classifier.demonstrations is None
        and classifier.verbalizer.longest == 1
        and not classifier.backbone.is_partitioned  # workers must run the same passes, and their caches differ
        and not any(weight.requires_grad for weight in classifier.backbone.model.parameters())
    )


def _from_first_soft_vector(item: Encoded) -> Encoded:
    """Returns the part of the text that every step reads: from the first soft vector on."""
    first = item.soft_positions[0]
    return Encoded(
        item.ids[first:],
        item.token_type_ids[first:],
        item.mask_position - first,
        soft_positions=tuple(position - first for position in item.soft_positions),
    )
