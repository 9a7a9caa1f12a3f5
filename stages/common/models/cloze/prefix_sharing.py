"""Scores several patterns over one text: a causal model reads their common beginning once and caches it.

Patterns such as "{text} In summary, it is{mask}" and "{text} All in all, it was{mask}" have the same beginning and end
in a few tokens of their own. The common beginning runs through the model once; each ending then reads its keys and
values. If patterns differ from the first token on, or a text is truncated differently, each pattern reads the text
separately. The scores are the same in both cases. Letters in names of tensors: B texts, D hidden size, W label words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from stages.common.examples import Example
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.label_word_scores import label_scores, next_token_scores
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
        and classifier.backbone.traits.continues_cache
        and isinstance(parts[-1], Mask)
        and isinstance(parts[-2], PatternText)
        and bool(parts[-2].text.rstrip(" "))
        and classifier.verbalizer.longest == 1
        and not classifier.task.options
        and classifier.prompt is None
        and classifier.demonstrations is None
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
    with backbone.evaluation(), autocast(classifiers[0].autocast):
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
            scores_BW = next_token_scores(
                backbone, classifier.verbalizer, hidden_BD, likelihood=classifier.verbalizer.needs_likelihood
            )
            scores.append(label_scores(classifier.verbalizer, scores_BW).double().cpu().numpy())
    return scores
