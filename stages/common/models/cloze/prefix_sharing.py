"""Scores several patterns over one text: a causal model reads their common beginning once and caches it.

Patterns such as "{text} In summary, it is{mask}" and "{text} All in all, it was{mask}" have the same beginning and end
in a few tokens of their own. The common beginning runs through the model once; each ending then reads its keys and
values. Where patterns differ from the first token on, or a text is truncated differently, each pattern reads the text
separately. The scores are the same in both cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from stages.common.examples import Example
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.label_word_scores import label_scores
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.syntax import Mask, PatternText
from stages.common.protocols import Recorder

Group = tuple[int, ...]
"""Numbers of the patterns that share a beginning."""


def predict_patterns(
    classifiers: Sequence[ClozeClassifier], examples: Sequence[Example], recorder: Recorder, phase: str
) -> list[NDArray[np.float64]]:
    """[P] arrays [n, C] of label scores: those of `ClozeClassifier.predict`, one for each pattern.

    Args:
        classifiers: [P] patterns on one backbone.
        examples: [n] texts.
        recorder: Gets the progress.
        phase: What it is shown as.
    """

    able = [number for number, item in enumerate(classifiers) if _can_share(item)]
    if len(able) < 2:
        return [item.predict(examples, recorder, phase) for item in classifiers]
    found = [np.zeros((len(examples), len(item.task.labels))) for item in classifiers]
    encoded = {number: [classifiers[number].encoder(item) for item in examples] for number in able}
    alone: dict[int, list[int]] = {number: list(range(len(examples))) for number in set(range(len(found))) - set(able)}
    for group, rows in _groups(encoded, len(examples)).items():
        if len(group) == 1:
            alone.setdefault(group[0], []).extend(rows)
            continue
        members = [classifiers[number] for number in group]
        for done, batch in _batches([encoded[group[0]][row] for row in rows], members[0].backbone.eval_batch_tokens):
            chosen = [rows[place] for place in batch]
            texts = [[encoded[number][row] for row in chosen] for number in group]
            for number, scores in zip(group, _shared_scores(members, texts), strict=True):
                found[number][chosen] = scores
            recorder.log_progress(done, len(rows), phase=phase)
    for number, rows in alone.items():
        found[number][rows] = classifiers[number].predict([examples[row] for row in rows], recorder, phase)
    return found


def _can_share(classifier: ClozeClassifier) -> bool:
    """Next-token scores of a causal model, where words stand before the mask and nothing behind it."""
    parts = classifier.encoder.pattern.parts
    return (
        classifier.backbone.family == "causal"
        and isinstance(parts[-1], Mask)
        and isinstance(parts[-2], PatternText)
        and bool(parts[-2].text.rstrip(" "))
        and classifier.verbalizer.longest == 1
        and not classifier.task.options
        and classifier.prompt is None
    )


def _groups(encoded: dict[int, list[Encoded]], num_examples: int) -> dict[Group, list[int]]:
    """Patterns whose ids agree through the last field -> the rows for which they do."""
    groups: dict[Group, list[int]] = defaultdict(list)
    for row in range(num_examples):
        by_stem: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, items in encoded.items():
            by_stem[items[row].ids[: items[row].prefix_length]].append(number)
        for numbers in by_stem.values():
            groups[tuple(numbers)].append(row)
    return groups


def _batches(encoded: Sequence[Encoded], max_tokens: int) -> list[tuple[int, list[int]]]:
    """Batches of places, each with how many texts are done after it."""
    done, found = 0, []
    for batch in batches_by_length([item.prefix_length for item in encoded], max_tokens):
        done += len(batch)
        found.append((done, batch))
    return found


def _shared_scores(
    classifiers: Sequence[ClozeClassifier], texts: Sequence[Sequence[Encoded]]
) -> list[NDArray[np.float64]]:
    """[P] arrays [B, C]. `texts` is [P][B]; texts of one row have the same stem."""

    backbone = classifiers[0].backbone
    stems = [
        Encoded(item.ids[: item.prefix_length], item.token_type_ids[: item.prefix_length], item.prefix_length - 1)
        for item in texts[0]
    ]
    was_training = backbone.model.training
    backbone.model.eval()
    with torch.inference_mode(), autocast(classifiers[0].autocast):
        batch = backbone.batch(stems)
        cache = DynamicCache(config=backbone.model.config)
        embed = backbone.model.get_input_embeddings()
        backbone.continue_from_cache(embed(batch.input_ids), batch.attention_mask, cache)
        scores = []
        for classifier, items in zip(classifiers, texts, strict=True):
            endings = torch.tensor([item.ids[item.prefix_length :] for item in items], device=backbone.device)
            attention = torch.cat([batch.attention_mask, torch.ones_like(endings)], dim=1)
            hidden_BD = backbone.continue_from_cache(embed(endings), attention, cache)[:, -1]
            cache.crop(-endings.shape[1])  # the next ending starts where this one did
            ids = [word[0] for word in classifier.verbalizer.flat]
            if classifier.verbalizer.needs_likelihood:
                words = backbone.lm_head(hidden_BD).float().log_softmax(dim=1)[:, ids]
            else:
                words = backbone.label_word_logits(hidden_BD, ids)
            scores.append(label_scores(classifier.verbalizer, words).double().cpu().numpy())
    backbone.model.train(was_training)
    return scores
