"""Demonstrations of LM-BFF: each text has one labeled example per label with it, whose label word is filled in.

Gao et al., "Making Pre-trained Language Models Better Few-shot Learners", ACL 2021, section 6. They are sampled again
for each training step; a prediction averages the label scores over several samples, as in the original implementation.
They follow the text. A causal model reads nothing after the mask, so there they precede the text. A text is
never its own demonstration. Letters in names of arrays: n labeled examples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, one_label, write_examples
from stages.common.models.cloze.classifier import Cloze, ClozeClassifier, LabeledCloze
from stages.common.models.cloze.config import MIN_DEMONSTRATIONS, SampledDemonstrationsConfig
from stages.common.models.retrieval import Similarity, bm25, cosine
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.seeds import python_rng

SETTINGS_FILE = "demonstrations.json"
EXAMPLES_FILE = "demonstrations.jsonl"
CAUSAL_SEPARATOR = "\n\n"
"""Text after each demonstration before the text of a causal model; others end in the special tokens of their text."""
RandomBelow = Callable[[int], int]
"""Returns a random number below its argument."""


class Demonstrations:
    """Samples demonstrations for the texts of a classifier, and puts them into its predictions.

    Args:
        classifier: The classifier; its predictions have demonstrations from now on.
        config: Their number and length, and how they are selected.
        labeled: [n] labeled examples.
        seed: Seed of the samples of predictions.

    Raises:
        InputError: a label has too few labeled examples.
    """

    def __init__(
        self,
        classifier: ClozeClassifier,
        config: SampledDemonstrationsConfig,
        labeled: Sequence[Example],
        seed: int,
    ) -> None:
        self.config = config
        self.labeled = labeled
        self.seed = seed
        self._classifier = classifier
        self._fields = classifier.task.fields
        self._rows = [
            [row for row, item in enumerate(labeled) if item.label == label] for label in classifier.task.labels
        ]
        self._rows_of: dict[tuple[str, ...], set[int]] = {}
        for row, item in enumerate(labeled):
            self._rows_of.setdefault(self._key(item), set()).add(row)
        self._check_numbers()
        self._ids = _demonstration_ids(classifier, config.max_length, labeled)
        self._similarity: Similarity | None = None
        if config.most_similar < 1:
            self._similarity = (
                bm25(labeled, self._fields) if config.encoder is None else cosine(labeled, self._fields, config.encoder)
            )
        self._of_training: dict[tuple[str, ...], list[list[int]]] = {}
        classifier.demonstrations = self

    def _check_numbers(self) -> None:
        for label, rows in zip(self._classifier.task.labels, self._rows, strict=True):
            num_texts = len({self._key(self.labeled[row]) for row in rows})
            if num_texts < MIN_DEMONSTRATIONS:
                raise InputError(
                    f"demonstrations need {MIN_DEMONSTRATIONS} labeled texts per label, also outside of each fold, but "
                    f"{label!r} has {num_texts}.",
                    "Label more examples, raise num_folds, or remove demonstrations.",
                    key="pet.demonstrations",
                )

    def save(self, folder: Path) -> None:
        """Writes settings and labeled examples, from which `load` builds the same demonstrations."""
        settings = {"seed": self.seed, "settings": self.config.model_dump(mode="json")}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        write_examples(folder / EXAMPLES_FILE, self.labeled)

    def draw(self, batch: list[LabeledCloze], step: int) -> list[LabeledCloze]:
        """Returns the training items of a step with demonstrations, from torch's global generator."""
        del step
        new = {self._key(item.example): item.example for item in batch}
        new = {key: example for key, example in new.items() if key not in self._of_training}
        self._of_training |= dict(zip(new, self._candidates(list(new.values())), strict=True))
        return [
            replace(item, cloze=self._joined(item.cloze, self._of_training[self._key(item.example)], _random_below))
            for item in batch
        ]

    def samples(self, clozes: Sequence[Cloze], examples: Sequence[Example]) -> Iterator[list[Cloze]]:
        """Yields the texts with other demonstrations each time. They depend on the fields of a text and the seed."""
        candidates = self._candidates(examples)
        for number in range(self.config.num_samples):
            rngs = (python_rng(self.seed, "demonstrations", number, *self._key(example)) for example in examples)
            yield [
                self._joined(cloze, rows, rng.randrange)
                for cloze, rows, rng in zip(clozes, candidates, rngs, strict=True)
            ]

    def _key(self, example: Example) -> tuple[str, ...]:
        return tuple(example.fields[name] for name in self._fields)

    def _candidates(self, examples: Sequence[Example]) -> list[list[list[int]]]:
        """Returns, for each text and label, the rows of the labeled examples to sample from."""
        others = []
        for example in examples:
            own = self._rows_of.get(self._key(example), set())
            others.append([[row for row in rows if row not in own] if own else rows for rows in self._rows])
        if self._similarity is None or not examples:
            return others
        return [
            [self._most_similar(rows, scores_n) for rows in by_label]
            for by_label, scores_n in zip(others, self._similarity(examples), strict=True)
        ]

    def _most_similar(self, rows: Sequence[int], scores_n: NDArray[np.float64]) -> list[int]:
        ranked = sorted(rows, key=lambda row: -scores_n[row])
        return ranked[: math.ceil(self.config.most_similar * len(rows))]

    def _joined(self, cloze: Cloze, rows_by_label: Sequence[Sequence[int]], random_below: RandomBelow) -> Cloze:
        """Returns a text with one demonstration of each label."""
        rows = [rows[random_below(len(rows))] for rows in rows_by_label if rows]
        ids = tuple(token for row in rows for token in self._ids[row])
        return tuple(self._with_ids(item, ids) for item in cloze)

    def _with_ids(self, encoded: Encoded, ids: tuple[int, ...]) -> Encoded:
        encoder = self._classifier.encoder
        if encoder.family == "causal":
            return encoded.preceded_by(ids, len(encoder.specials.before))
        return encoded.followed_by(ids)


def load_demonstrations(folder: Path, classifier: ClozeClassifier) -> None:
    """Puts the demonstrations in a folder into the predictions of a classifier, if there are any."""
    if not (folder / SETTINGS_FILE).exists():
        return
    saved = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    config = SampledDemonstrationsConfig.model_validate(saved["settings"])
    Demonstrations(classifier, config, load_examples(folder / EXAMPLES_FILE), saved["seed"])


def _demonstration_ids(
    classifier: ClozeClassifier, max_length: int, labeled: Sequence[Example]
) -> list[tuple[int, ...]]:
    """Returns the ids of each labeled example with the first word of its label, at most `max_length` of them."""
    encoder, words = classifier.encoder, dict(zip(classifier.task.labels, classifier.verbalizer.words, strict=True))
    separator: tuple[int, ...] = ()
    if encoder.family == "causal":
        separator = tuple(classifier.backbone.tokenizer(CAUSAL_SEPARATOR, add_special_tokens=False)["input_ids"])
    num_added = classifier.verbalizer.longest - len(encoder.mask_ids)  # by a word instead of the mask
    of_demonstrations = Encoder(
        encoder.pattern,
        encoder.tokenizer,
        encoder.family,
        max_length,
        encoder.truncation,
        num_reserved=num_added + len(separator),
        soft_blocks=True,
    )
    first_words = (words[one_label(item.label)][0] for item in labeled)
    filled = (of_demonstrations.filled(item, word) for item, word in zip(labeled, first_words, strict=True))
    return [ids + encoder.tail + separator for ids in filled]


def _random_below(count: int) -> int:
    return int(torch.randint(count, ()))
