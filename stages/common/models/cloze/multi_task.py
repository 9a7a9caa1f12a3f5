"""Many prompts in one batch: each text has the prompt, pattern and label words of its own task, over one backbone.

Vectors before a text become the first positions of the text, so prompts of any length fit into one stacked table.
Gradients reach only the prompts of the batch. Deep prompts share a pass if they have the same number of positions. A
linear head, words of several tokens, and text after the mask of a causal model need a separate pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.common.examples import Example
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.classifier import Cloze, ClozeClassifier
from stages.common.patterns.encoding import Encoded

TaskBatch = tuple[ClozeClassifier, Sequence[Cloze]]
"""A task with its prompt, and its texts of this batch."""


def multi_task_logits(parts: Sequence[TaskBatch], *, training: bool = False) -> list[Tensor]:
    """[P] tensors [b, C]: what `ClozeClassifier.logits` gives for each part.

    Args:
        parts: [P] tasks on one backbone, with their encoded texts.
        training: As in `ClozeClassifier.logits`.
    """
    found: dict[int, Tensor] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for number, (classifier, clozes) in enumerate(parts):
        if _takes_one_token(classifier, clozes):
            groups[_num_places(classifier)].append(number)
        else:
            found[number] = classifier.logits(clozes, training=training)
    for numbers in groups.values():
        scores = _one_pass([parts[number] for number in numbers], training=training)
        found |= dict(zip(numbers, scores, strict=True))
    return [found[number] for number in range(len(parts))]


def predict_multi_task(
    classifiers: Sequence[ClozeClassifier], examples: Sequence[tuple[int, Example]]
) -> list[NDArray[np.float64]]:
    """[n] arrays [C] of label scores, in the order of `examples`; batches hold texts of similar length of any task.

    Args:
        classifiers: Tasks on one frozen backbone.
        examples: [n] numbers of the task, each with its text.
    """

    encoded = [(number, classifiers[number].encode(item)) for number, item in examples]
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(encoded)
    with torch.inference_mode():
        sizes = [classifiers[number].size(cloze) for number, cloze in encoded]
        for rows in batches_by_length(sizes, classifiers[0].backbone.eval_batch_tokens):
            by_task: dict[int, list[int]] = defaultdict(list)
            for row in rows:
                by_task[encoded[row][0]].append(row)
            parts = [(classifiers[number], [encoded[row][1] for row in own]) for number, own in by_task.items()]
            for own, scores in zip(by_task.values(), multi_task_logits(parts), strict=True):
                for row, values in zip(own, scores.double().cpu().numpy(), strict=True):
                    found[row] = values
    return found


def _takes_one_token(classifier: ClozeClassifier, clozes: Sequence[Cloze]) -> bool:
    if classifier.head is not None:
        return False
    return classifier.verbalizer.longest == 1 and not any(item.suffix for cloze in clozes for item in cloze)


def _num_places(classifier: ClozeClassifier) -> int:
    """Places of a deep prompt; 0 for others, which share a pass."""
    is_deep = classifier.prompt is not None and classifier.prompt.position == "layers"
    return int(classifier.prompt.num_vectors) if is_deep else 0


def _one_pass(parts: Sequence[TaskBatch], *, training: bool) -> list[Tensor]:
    """Scores of parts whose words are read at the mask."""

    backbone = parts[0][0].backbone
    items, sizes = [], []
    inputs = [classifier.prompt() if classifier.prompt is not None else SoftInput() for classifier, _ in parts]
    for soft, (_, clozes) in zip(inputs, parts, strict=True):
        texts = [_with_room(item, soft.num_before) for cloze in clozes for item in cloze]
        items += texts
        sizes.append(len(texts))
    repeats = torch.tensor(sizes, device=backbone.device)
    with autocast(parts[0][0].autocast):
        prompt = _stacked(inputs, repeats)
        batch = backbone.batch(items, prompt, pad_to_multiple=not training)
        needs_all = backbone.family != "causal" or any(item.verbalizer.needs_likelihood for item, _ in parts)
        rows = backbone.vocabulary_logits(batch, prompt) if needs_all else backbone.text_mask_state(batch, prompt)
        scores = []
        for (classifier, clozes), part in zip(parts, rows.split(sizes), strict=True):
            ids = [word[0] for word in classifier.verbalizer.flat]
            if classifier.verbalizer.needs_likelihood:
                words = part.log_softmax(dim=1)[:, ids]
            else:
                words = part[:, ids] if needs_all else backbone.label_word_logits(part, ids)
            scores.append(classifier.answers(words, len(clozes)))
    return scores


def _with_room(item: Encoded, count: int) -> Encoded:
    """The text with `count` places for vectors before it."""
    if not count:
        return item
    return replace(
        item,
        ids=item.ids[:1] * count + item.ids,
        token_type_ids=(0,) * count + item.token_type_ids,
        mask_position=item.mask_position + count,
        prefix_length=item.prefix_length + count,
        soft_positions=(*range(count), *(place + count for place in item.soft_positions)),
    )


def _stacked(inputs: Sequence[SoftInput], repeats: Tensor) -> SoftInput:
    """One input for all texts: input vectors [R, M, D], padded to the longest prompt, or layers [R, K, 2, H, P, d]."""

    if inputs[0].layers is not None:
        layers = torch.stack([soft.layers for soft in inputs if soft.layers is not None])
        return SoftInput(layers=layers.repeat_interleave(repeats, dim=0))
    tables = [soft.before if soft.before is not None else soft.inside for soft in inputs]
    width = next((table for table in tables if table is not None), None)
    if width is None:
        return SoftInput()
    filled = [width.new_zeros(0, width.shape[1]) if table is None else table for table in tables]
    return SoftInput(inside=pad_sequence(filled, batch_first=True).repeat_interleave(repeats, dim=0))
