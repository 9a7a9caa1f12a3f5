"""Gradient-guided trigger words in front of the mask (AutoPrompt, Shin et al., EMNLP 2020).

A step looks at one trigger. The gradient of the loss with respect to its embedding says which words would lower the
loss most, in a linear approximation. These are tried, and the best one stays if the loss is lower. The gradient is that
of a soft prompt in the place of the triggers, so masked, causal and seq2seq models share the code.

Only words of the vocabulary are tried, so that the result is a pattern that people can read, and no label words, as in
the paper. The paper starts from masks; here the first triggers are the most frequent word of the labeled texts, because
a pattern has one mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.soft_input import PromptPosition, SoftInput
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.vocabulary import most_frequent, whole_words
from stages.common.training.cross_validation import Indices
from stages.pet.pattern_search.config import GradientConfig
from stages.pet.pattern_search.scorer import PatternScorer, pattern_task
from stages.pet.pattern_search.templates import Template

MAX_BATCH = 16
"""Examples per backward pass."""


@dataclass(slots=True)
class TriggerVectors:
    """The embeddings of the triggers, as a soft prompt inside the pattern."""

    vectors_MD: Tensor
    position: PromptPosition = "inside"
    reads_text: bool = False

    def __call__(self, texts: Sequence[Encoded]) -> SoftInput:
        del texts
        return SoftInput(inside=self.vectors_MD)


def candidate_words(scorer: PatternScorer) -> dict[str, int]:
    """Returns word -> token id of all words of the vocabulary but those of the labels.

    Raises:
        InputError: the vocabulary has no other words.
    """
    used = {word.strip() for words in scorer.config.task.words(scorer.config.pattern).values() for word in words}
    words = {
        word: number
        for word, number in whole_words(scorer.backbone.tokenizer, min_letters=1).items()
        if word not in used
    }
    if not words:
        raise InputError(
            "the vocabulary of the backbone has no words that could become triggers.",
            "Remove gradient, or use another backbone.",
            key="pattern_search.gradient",
        )
    return words


def search_triggers(
    start: Template, scorer: PatternScorer, rows: Indices, settings: GradientConfig, words: dict[str, int]
) -> list[str]:
    """Returns the patterns with triggers, from the first one to the one with the lowest loss.

    Args:
        start: The pattern, which gets the triggers.
        scorer: Computes the loss.
        rows: Examples that decide.
        settings: Settings of the search.
        words: Word -> token id of the candidates.
    """
    examples = [scorer.examples[row] for row in rows]
    first = next(iter(most_frequent(words, scorer.backbone.tokenizer, examples, scorer.config.task.fields, 1)))
    triggers = [first] * settings.num_words
    path = [start.before_mask(triggers).text]
    if not scorer.fits(path[0]):
        return []
    names, ids = list(words), torch.tensor(list(words.values()), device=scorer.backbone.device)
    num_stale = 0
    for step in range(settings.num_steps):
        position = step % settings.num_words
        gradient_MD = trigger_gradient(start, [words[word] for word in triggers], scorer, rows)
        order = _by_estimated_loss(scorer, ids, gradient_MD[position])
        drafts = {}
        for number in order[: settings.num_candidates]:
            replaced = [*triggers[:position], names[number], *triggers[position + 1 :]]
            if scorer.fits(text := start.before_mask(replaced).text):
                drafts[text] = replaced
        best = min(drafts, key=lambda text: scorer.loss(text, rows), default=path[-1])
        num_stale += 1
        if scorer.loss(best, rows) < scorer.loss(path[-1], rows):
            num_stale, triggers = 0, drafts[best]
            path.append(best)
        if num_stale == settings.num_words:  # nothing is random: the next steps would try the same words
            break
    return path


def trigger_gradient(start: Template, trigger_ids: Sequence[int], scorer: PatternScorer, rows: Indices) -> Tensor:
    """Returns the gradient [M, D] of the mean cross-entropy with respect to the embeddings of the triggers.

    Args:
        start: The pattern without triggers.
        trigger_ids: [M] token ids of the triggers.
        scorer: Has the backbone and the examples.
        rows: Examples of the mean.
    """
    backbone, config = scorer.backbone, scorer.config
    table = backbone.model.get_input_embeddings()
    with torch.no_grad():
        vectors_MD = table(torch.tensor([trigger_ids], device=backbone.device))[0].float().clone()
    vectors_MD.requires_grad_()
    classifier = ClozeClassifier.of(
        pattern_task(config, start.soft_text(len(trigger_ids))), config.pattern, backbone, config.backbone,
        TriggerVectors(vectors_MD), loss_kind="cross_entropy",
    )  # fmt: skip
    items = classifier.items([scorer.examples[row] for row in rows])
    with torch.enable_grad():
        for number in range(0, len(items), MAX_BATCH):
            scorer.engine.backward(classifier.loss(items[number : number + MAX_BATCH], items))
    assert vectors_MD.grad is not None
    # workers compute the same up to rounding, and must try the same words
    gradient_MD: Tensor = scorer.engine.all_reduce_sum(vectors_MD.grad) / scorer.engine.world_size
    return gradient_MD


def _by_estimated_loss(scorer: PatternScorer, ids: Tensor, gradient_D: Tensor) -> list[int]:
    """Returns the numbers of the words [W] in the order of the loss that a linear approximation predicts."""
    with torch.no_grad():
        vectors_WD = scorer.backbone.model.get_input_embeddings()(ids[None])[0].float()
    estimates = (vectors_WD @ gradient_D).double().cpu().numpy()
    order: list[int] = np.argsort(estimates, kind="stable").tolist()
    return order
