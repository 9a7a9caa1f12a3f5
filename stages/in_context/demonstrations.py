"""Demonstrations: labeled examples before a text, their words filled in.

Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020. The original PET calls it priming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stages.common.errors import InputError
from stages.common.examples import Example, one_label
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.retrieval import Similarity, bm25, cosine
from stages.common.seeds import python_rng
from stages.in_context.config import DemonstrationConfig

SEPARATOR = "\n\n"
"""Text after each demonstration."""
Select = Callable[[Example], Sequence[int]]
"""A text -> the rows of the labeled set that stand before it, in order."""


def selector(
    config: DemonstrationConfig, train_set: Sequence[Example], labels: Sequence[str], fields: Sequence[str], seed: int
) -> Select:
    """Returns how demonstrations are selected.

    Raises:
        InputError: a class, or the labeled set, has too few examples.
    """
    if config.selection == "retrieved":
        similarity = (
            bm25(train_set, fields) if config.retriever is None else cosine(train_set, fields, config.retriever)
        )
        return _Retrieved(similarity, train_set, config.shots * len(labels))
    if config.selection == "random":
        rng = python_rng(seed, "demonstrations")
        fixed = rng.sample(range(len(train_set)), min(len(train_set), config.shots * len(labels)))
    else:
        fixed = sample_balanced(train_set, labels, config.shots, seed)
    return lambda _: fixed


def sample_balanced(train_set: Sequence[Example], labels: Sequence[str], shots: int, seed: int) -> list[int]:
    """Samples the rows of `shots` labeled examples per class, in shuffled order.

    Raises:
        InputError: a class has fewer examples.
    """
    rng = python_rng(seed, "demonstrations")
    chosen: list[int] = []
    for label in labels:
        candidates = [row for row, item in enumerate(train_set) if item.label == label]
        if len(candidates) < shots:
            raise InputError(
                f"{shots} demonstrations per class are required, but {label!r} has {len(candidates)} labeled examples.",
                "Lower priming.shots, set priming.selection: random, or label more examples.",
                key="priming.shots",
            )
        chosen += rng.sample(candidates, shots)
    rng.shuffle(chosen)
    return chosen


class _Retrieved:
    """The most similar labeled examples, the most similar one last. A text never is its own demonstration."""

    def __init__(self, similarity: Similarity, train_set: Sequence[Example], count: int) -> None:
        self._similarity = similarity
        self._train_set = train_set
        self._count = count

    def __call__(self, example: Example) -> list[int]:
        order = np.argsort(-self._similarity([example])[0], kind="stable").tolist()
        others = [row for row in order if self._train_set[row].fields != example.fields]
        return others[: self._count][::-1]


class Demonstrations:
    """Puts demonstrations before every text that a classifier scores.

    As many whole demonstrations as the backbone has positions for: the first ones are left out.

    Args:
        classifier: The classifier.
        train_set: Labeled examples.
        select: How they are selected.

    Raises:
        InputError: the backbone has too few positions for a single one.
    """

    def __init__(self, classifier: ClozeClassifier, train_set: Sequence[Example], select: Select) -> None:
        self._select = select
        self._blocks = _blocks(classifier, train_set)
        limit = classifier.backbone.max_positions
        self._room = None if limit is None else limit - classifier.encoder.max_length
        self.order: Callable[[Sequence[int]], Sequence[int]] = lambda rows: rows
        """Changes the order of the rows."""
        self.num_texts = self.num_selected = self.num_read = 0
        """Texts so far, and the demonstrations before them that were selected, and that were read."""
        shortest = min((len(block) for block in self._blocks), default=0)
        if self._room is not None and shortest > self._room:
            raise InputError(
                f"a demonstration has at least {shortest} tokens; with {classifier.encoder.max_length} tokens of text "
                f"it exceeds the {limit} positions of the backbone.",
                "Lower backbone.max_length.",
                key="backbone.max_length",
            )
        classifier.encoder.prefix = self

    def __call__(self, example: Example) -> tuple[int, ...]:
        """Returns the token ids before a text."""
        rows = list(self.order(self._select(example)))
        self.num_texts += 1
        self.num_selected += len(rows)
        while self._room is not None and sum(len(self._blocks[row]) for row in rows) > self._room:
            rows.pop(0)
        self.num_read += len(rows)
        return tuple(token for row in rows for token in self._blocks[row])


def _blocks(classifier: ClozeClassifier, train_set: Sequence[Example]) -> list[tuple[int, ...]]:
    """Returns the token ids of each labeled example with its label word, and of the separator."""
    tokenizer, encoder = classifier.backbone.tokenizer, classifier.encoder
    separator = tuple(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    first_words = {
        label: words[0] for label, words in zip(classifier.task.labels, classifier.verbalizer.words, strict=True)
    }
    return [encoder.filled(example, first_words[one_label(example.label)]) + separator for example in train_set]
