"""Scores several patterns over one text: a causal model reads their common beginning once and caches it.

Patterns such as "{text} In summary, it is{mask}" and "{text} All in all, it was{mask}" have the same beginning and end
in a few tokens of their own. The common beginning runs through the model once; each ending then reads its keys and
values. If patterns differ from the first token on, or a text is truncated differently, each pattern reads the text
separately. The scores are the same in both cases. Letters in names of tensors: B texts, D hidden size, W label words.

Trains a prompt at the end of the input over cached keys and values of the text before it.

A causal model reads the text before the first soft vector independently of the prompt, so its keys and values are the
same in every step. They are computed once and cached; a step reads only the prompt and the text after it. Gradients
equal those of a full pass. Letters in names of tensors: B texts, P cached positions, D hidden size, W label words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from stages.common.examples import Example
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.label_word_scores import label_scores
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.syntax import Mask, PatternText
from stages.common.protocols import Recorder

Group = tuple[int, ...]
"""Numbers of the patterns that share a beginning."""


def predict_patterns(
    classifiers: Sequence[ClozeClassifier], examples: Sequence[Example], recorder: Recorder, phase: str
) -> list[NDArray[np.float64]]:
    """Returns one array of label scores [n, C] per pattern, equal to those of `ClozeClassifier.predict`.

    Args:
        classifiers: Patterns on one backbone.
        examples: [n] examples.
        recorder: Gets the progress.
        phase: Name of the phase in the progress display.
    """
    sharing = [number for number, classifier in enumerate(classifiers) if _can_share(classifier)]
    if len(sharing) < 2:
        return [classifier.predict(examples, recorder, phase) for classifier in classifiers]
    predictions = [np.zeros((len(examples), len(classifier.task.labels))) for classifier in classifiers]
    encoded = {number: [classifiers[number].encoder(item) for item in examples] for number in sharing}
    separate = {number: list(range(len(examples))) for number in set(range(len(classifiers))) - set(sharing)}
    for group, rows in _groups(encoded, len(examples)).items():
        if len(group) == 1:
            separate.setdefault(group[0], []).extend(rows)
            continue
        members = [classifiers[number] for number in group]
        lengths = [encoded[group[0]][row].prefix_length for row in rows]
        for batch in _batches(lengths, members[0].backbone.eval_batch_tokens):
            batch_rows = [rows[index] for index in batch.indices]
            texts = [[encoded[number][row] for row in batch_rows] for number in group]
            for number, scores in zip(group, _shared_scores(members, texts), strict=True):
                predictions[number][batch_rows] = scores
            recorder.log_progress(batch.num_done, len(rows), phase=phase)
    for number, rows in separate.items():
        predictions[number][rows] = classifiers[number].predict([examples[row] for row in rows], recorder, phase)
    return predictions


def _can_share(classifier: ClozeClassifier) -> bool:
    """Returns True for next-token scores of a causal model, with words before the mask and nothing after it."""
    parts = classifier.encoder.pattern.parts
    return (
        isinstance(classifier.backbone, CausalBackbone)
        and isinstance(parts[-1], Mask)
        and isinstance(parts[-2], PatternText)
        and bool(parts[-2].text.rstrip(" "))
        and classifier.verbalizer.longest == 1
        and not classifier.task.options
        and classifier.prompt is None
    )


def _groups(encoded: dict[int, list[Encoded]], num_examples: int) -> dict[Group, list[int]]:
    """Returns patterns whose ids agree through the last field -> the rows for which they do."""
    groups: dict[Group, list[int]] = defaultdict(list)
    for row in range(num_examples):
        by_prefix: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, items in encoded.items():
            by_prefix[items[row].ids[: items[row].prefix_length]].append(number)
        for numbers in by_prefix.values():
            groups[tuple(numbers)].append(row)
    return groups


class _Batch(NamedTuple):
    """Indices of a batch, and how many texts are done after it."""

    indices: list[int]
    num_done: int


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[_Batch]:
    num_done = 0
    for indices in batches_by_length(lengths, max_tokens):
        num_done += len(indices)
        yield _Batch(indices, num_done)


def _shared_scores(
    classifiers: Sequence[ClozeClassifier], texts: Sequence[Sequence[Encoded]]
) -> list[NDArray[np.float64]]:
    """Returns one array [B, C] per pattern. `texts` has B texts per pattern; those of one row have the same prefix."""
    backbone = classifiers[0].backbone
    assert isinstance(backbone, CausalBackbone)
    prefixes = [
        Encoded(item.ids[: item.prefix_length], item.token_type_ids[: item.prefix_length], item.prefix_length - 1)
        for item in texts[0]
    ]
    was_training = backbone.model.training
    backbone.model.eval()
    with torch.inference_mode(), autocast(classifiers[0].autocast):
        batch = backbone.batch(prefixes)
        cache = DynamicCache(config=backbone.model.config)
        embed = backbone.model.get_input_embeddings()
        backbone.continue_from_cache(embed(batch.input_ids), batch.attention_mask, cache)
        scores = []
        for classifier, items in zip(classifiers, texts, strict=True):
            endings_BT = torch.tensor([item.ids[item.prefix_length :] for item in items], device=backbone.device)
            attention = torch.cat([batch.attention_mask, torch.ones_like(endings_BT)], dim=1)
            hidden_BD = backbone.continue_from_cache(embed(endings_BT), attention, cache)[:, -1]
            cache.crop(-endings_BT.shape[1])  # the next ending starts at the same position
            ids = [word[0] for word in classifier.verbalizer.flat]
            if classifier.verbalizer.needs_likelihood:
                scores_BW = backbone.lm_head(hidden_BD).float().log_softmax(dim=1)[:, ids]
            else:
                scores_BW = backbone.word_columns(hidden_BD, ids)
            scores.append(label_scores(classifier.verbalizer, scores_BW).double().cpu().numpy())
    backbone.model.train(was_training)
    return scores


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

    def loss(self, batch: list[LabeledCloze]) -> Tensor:
        """Returns the loss of a batch, as `ClozeClassifier.loss`."""
        items = [item for labeled in batch for item in labeled.cloze]
        classifier = self.classifier
        with autocast(classifier.autocast):
            scores_BW = self._word_scores(items)
        return classifier.compute_loss(classifier.answers(scores_BW, len(batch)), batch)

    def _word_scores(self, items: Sequence[Encoded]) -> Tensor:
        """Returns the scores of the label words, [B, W]."""
        verbalizer = self.classifier.verbalizer
        hidden_BD = self._mask_hidden_state(items)
        ids = [word[0] for word in verbalizer.flat]
        if verbalizer.needs_likelihood:
            return self.backbone.lm_head(hidden_BD).float().log_softmax(dim=1)[:, ids]
        return self.backbone.word_columns(hidden_BD, ids)

    def _mask_hidden_state(self, items: Sequence[Encoded]) -> Tensor:
        """Returns the last hidden state at the mask, [B, D]; reads the prompt and the text after it over the cache."""
        backbone = self.backbone
        cached = self._keys_and_values(items)
        longest = max(layers.shape[-2] for layers in cached)
        padded = torch.stack([F.pad(layers, (0, 0, longest - layers.shape[-2], 0)) for layers in cached])
        mask_BP = torch.tensor([[0] * (longest - layers.shape[-2]) + [1] * layers.shape[-2] for layers in cached])
        batch = backbone.batch([_from_first_soft_vector(item) for item in items])
        prompt = self.prompt()
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


def cached_loss(classifier: ClozeClassifier) -> Callable[[list[LabeledCloze]], Tensor]:
    """Returns the loss of a classifier, over cached keys and values if possible."""
    return CachedTexts(classifier).loss if can_be_cached(classifier) else classifier.loss


def can_be_cached(classifier: ClozeClassifier) -> bool:
    """Returns True if a field is before the first soft vector, and only the prompt of a causal model is trained."""
    pattern = classifier.encoder.pattern
    return (
        isinstance(classifier.backbone, CausalBackbone)
        and classifier.prompt is not None
        and classifier.prompt.position == "inside"
        and pattern.soft_follows_field
        and pattern.ends_in_mask
        and classifier.head is None
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
