"""Many prompts in one batch: each text has the prompt, pattern and label words of its own task, over one backbone.

Vectors before a text become the first positions of the text, so prompts of any length fit into one stacked tensor.
Gradients reach only the prompts of the batch. Deep prompts share a pass if they have the same number of positions. A
linear head, words of several tokens, and text after the mask of a causal model need a separate pass. Letters in names
of tensors: B texts of all tasks, M vectors of the longest prompt, D embedding size, W label words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.common.examples import Example
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.classifier import Cloze, ClozeClassifier
from stages.common.patterns.encoding import Encoded

TaskBatch = tuple[ClozeClassifier, Sequence[Cloze]]
"""A task with its prompt, and its encoded examples in this batch."""


def multi_task_logits(parts: Sequence[TaskBatch], *, training: bool = False) -> list[Tensor]:
    """Returns one tensor [b, C] per part, equal to the result of `ClozeClassifier.logits`.

    Args:
        parts: Tasks on one backbone, with their encoded examples.
        training: As in `ClozeClassifier.logits`.
    """
    logits: dict[int, Tensor] = {}
    inputs: dict[int, SoftInput] = {}
    groups: dict[tuple[bool | int, ...], list[int]] = defaultdict(list)
    for number, (classifier, clozes) in enumerate(parts):
        if _has_single_token_words(classifier, clozes):
            inputs[number] = _soft_input(classifier, clozes)
            groups[_deep_shape(inputs[number])].append(number)
        else:
            logits[number] = classifier.logits(clozes, training=training)
    for numbers in groups.values():
        scores = _one_pass(
            [parts[number] for number in numbers], [inputs[number] for number in numbers], training=training
        )
        logits |= dict(zip(numbers, scores, strict=True))
    return [logits[number] for number in range(len(parts))]


def predict_multi_task(
    classifiers: Sequence[ClozeClassifier], examples: Sequence[tuple[int, Example]]
) -> list[NDArray[np.float64]]:
    """Returns one array [C] of label scores per example; batches hold texts of similar length of any task.

    Args:
        classifiers: Tasks on one frozen backbone.
        examples: Numbers of tasks, each with an example.
    """
    encoded = [(number, classifiers[number].encode(item)) for number, item in examples]
    predictions: list[NDArray[np.float64]] = [np.zeros(0)] * len(encoded)
    with torch.inference_mode():
        sizes = [classifiers[number].size(cloze) for number, cloze in encoded]
        for rows in batches_by_length(sizes, classifiers[0].backbone.eval_batch_tokens):
            by_task: dict[int, list[int]] = defaultdict(list)
            for row in rows:
                by_task[encoded[row][0]].append(row)
            parts = [
                (classifiers[number], [encoded[row][1] for row in task_rows]) for number, task_rows in by_task.items()
            ]
            for task_rows, scores in zip(by_task.values(), multi_task_logits(parts), strict=True):
                for row, values in zip(task_rows, scores.double().cpu().numpy(), strict=True):
                    predictions[row] = values
    return predictions


def _has_single_token_words(classifier: ClozeClassifier, clozes: Sequence[Cloze]) -> bool:
    if classifier.head is not None:
        return False
    return classifier.verbalizer.longest == 1 and not any(item.suffix for cloze in clozes for item in cloze)


def _soft_input(classifier: ClozeClassifier, clozes: Sequence[Cloze]) -> SoftInput:
    if classifier.prompt is None:
        return SoftInput()
    return classifier.prompt([item for cloze in clozes for item in cloze])


def _deep_shape(prompt: SoftInput) -> tuple[bool | int, ...]:
    """Returns the number of positions of a deep prompt and where it is; that of other prompts, which share a pass, is
    empty.
    """
    places = [prompt.layers, prompt.encoder, prompt.cross]
    deep = next((tensor for tensor in places if tensor is not None), None)
    if deep is None:
        return ()
    return (deep.shape[-2], *(tensor is not None for tensor in places), *(prompt.lengths or ()))


def _one_pass(parts: Sequence[TaskBatch], inputs: Sequence[SoftInput], *, training: bool) -> list[Tensor]:
    """Returns the scores of parts whose words are read at the mask. `inputs`: what their prompts add."""
    backbone = parts[0][0].backbone
    items, sizes = [], []
    for soft_input, (_, clozes) in zip(inputs, parts, strict=True):
        texts = [_with_leading_positions(item, soft_input.num_before) for cloze in clozes for item in cloze]
        items += texts
        sizes.append(len(texts))
    with autocast(parts[0][0].autocast):
        prompt = _stacked(inputs, sizes)
        batch = backbone.batch(items, prompt, pad_to_multiple=not training)
        needs_vocabulary = any(classifier.needs_likelihood(training=training) for classifier, _ in parts)
        rows = backbone.vocabulary_logits(batch, prompt) if needs_vocabulary else backbone.mask_rows(batch, prompt)
        scores = []
        for (classifier, clozes), part in zip(parts, rows.split(sizes), strict=True):
            ids = [word[0] for word in classifier.verbalizer.flat]
            if classifier.needs_likelihood(training=training):
                scores_BW = part.log_softmax(dim=1)[:, ids]
            else:
                scores_BW = part[:, ids] if needs_vocabulary else backbone.word_columns(part, ids)
            scores.append(classifier.answers(scores_BW, len(clozes)))
    return scores


def _with_leading_positions(item: Encoded, count: int) -> Encoded:
    """Returns the text with `count` positions for vectors before it."""
    if not count:
        return item
    return replace(
        item,
        ids=item.ids[:1] * count + item.ids,
        token_type_ids=(0,) * count + item.token_type_ids,
        mask_position=item.mask_position + count,
        prefix_length=item.prefix_length + count,
        soft_positions=(*range(count), *(position + count for position in item.soft_positions)),
    )


def _stacked(inputs: Sequence[SoftInput], sizes: Sequence[int]) -> SoftInput:
    """Returns one input for all texts: vectors [B, M, D] padded to the longest prompt, or layers [B, K, 2, H, P, d].

    Args:
        inputs: One prompt per part, or one per text of a part.
        sizes: Number of texts of each part.
    """
    deep = {
        name: torch.cat([tensor.expand(size, *tensor.shape[-5:]) for tensor, size in zip(tensors, sizes, strict=True)])
        for name in ("layers", "encoder", "cross")
        if (tensors := [tensor for item in inputs if (tensor := getattr(item, name)) is not None])
    }
    if deep:
        return SoftInput(**deep, lengths=inputs[0].lengths)
    tables = [soft_input.before if soft_input.before is not None else soft_input.inside for soft_input in inputs]
    first = next((table for table in tables if table is not None), None)
    if first is None:
        return SoftInput()
    filled = [first.new_zeros(0, first.shape[-1]) if table is None else table for table in tables]
    longest = max(table.shape[-2] for table in filled)
    padded = [F.pad(table, (0, 0, 0, longest - table.shape[-2])) for table in filled]
    return SoftInput(inside=torch.cat([table.expand(size, -1, -1) for table, size in zip(padded, sizes, strict=True)]))
