"""Which patterns and label words predict the labeled examples? The answer decides what a new recipe keeps.

Nothing is trained. Each pattern scores the labeled examples zero-shot; its calibration is cross-validated, because a
language model prefers some words for other reasons than the text. Words that are searched for in the labeled examples
(PETAL) are cross-validated together with the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.init.budget import MAX_FOLDS
from pipelines.init.significance import is_above_guess
from stages.common.data.groups import group_numbers
from stages.common.examples import Example, label_indices
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Family, Task
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.patterns.vocabulary import whole_words
from stages.common.protocols import NullRecorder, Recorder
from stages.common.training.cross_validation import Indices
from stages.common.training.untrained_scores import HeldOutScore, calibrated_logits
from stages.pet.verbalizer_search.config import SearchConfig, VerbalizerSearchConfig
from stages.pet.verbalizer_search.stage import rank, word_log_likelihoods

Words = Mapping[str, Sequence[str]]
"""Label -> its label words."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pattern with label words, and how well it predicts held-out examples."""

    pattern: str
    """Name of the pattern."""
    words: Words
    accuracy: float
    loss: float
    """Mean cross-entropy."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Labeled examples, and the language model that predicts them."""

    task: Task
    """Labels and patterns; label words do not matter."""
    backbone: BackboneConfig
    examples: Sequence[Example]
    """Labeled examples, one or more."""
    recorder: Recorder = field(default_factory=NullRecorder)
    """Gets the progress of the scores."""

    @property
    def gold(self) -> NDArray[np.int64]:
        """Indices of the labels, [n]."""
        return np.array(label_indices(self.examples, self.task.labels), dtype=np.int64)

    @property
    def groups(self) -> list[int]:
        """Numbers of the groups that folds do not separate, [n]."""
        return group_numbers(self.examples, self.task.fields)

    @property
    def majority(self) -> float:
        """Accuracy of the most frequent label."""
        return float(np.bincount(self.gold).max()) / len(self.examples)

    def compare(self, word_sets: Sequence[Words]) -> list[Candidate]:
        """Returns each pattern with the words that suit it best, the best pattern first.

        Args:
            word_sets: Sets of label words, one or more.
        """
        suited: dict[str, list[Candidate]] = {pattern: [] for pattern in self.task.patterns}
        for group in self._by_length(word_sets):
            words = list(dict.fromkeys(word for item in group for label in item.values() for word in label))
            for pattern, scores in self._word_scores(words).items():
                for word_set in group:
                    columns = [[words.index(word) for word in word_set[label]] for label in self.task.labels]
                    logits = np.stack([scores[:, column].mean(axis=1) for column in columns], axis=1)
                    suited[pattern].append(self._candidate(pattern, word_set, self._calibrated(logits)))
        return ranked([ranked(candidates)[0] for candidates in suited.values()])

    def search(self, family: Family) -> list[Candidate]:
        """Returns each pattern with words that the verbalizer search finds (PETAL), the best pattern first.

        There is none if a label has only one example, if all examples are one group, or if the vocabulary has too few
        words.
        """
        if min(np.bincount(self.gold, minlength=len(self.task.labels))) < 2 or len(set(self.groups)) < 2:
            return []
        settings, candidates = SearchConfig(), []
        with borrow_backbone(self.backbone) as backbone:
            vocabulary = whole_words(backbone.tokenizer)
            if len(vocabulary) < settings.num_words * len(self.task.labels):
                return []
            for pattern in self.task.patterns:
                if family == "causal" and not self.task.pattern(pattern).ends_in_mask:
                    continue
                config = VerbalizerSearchConfig(task=self.task, pattern=pattern, backbone=self.backbone)
                scores = word_log_likelihoods(config, backbone, self.examples, list(vocabulary.values()), self.recorder)
                candidates.append(self._searched(pattern, list(vocabulary), scores, settings))
        return ranked(candidates)

    def is_above_guess(self, accuracy: float) -> bool:
        """Returns True if an accuracy is significantly above that of the most frequent label (binomial test)."""
        return is_above_guess(round(accuracy * len(self.examples)), self.gold)

    def _by_length(self, word_sets: Sequence[Words]) -> list[list[Words]]:
        """Returns the sets whose words are single tokens, which one pass scores, and the others, if there are any."""
        short: list[Words] = []
        long: list[Words] = []
        with borrow_backbone(self.backbone) as backbone:
            for words in word_sets:
                verbalizer = Verbalizer.of(words, backbone.tokenizer)
                (short if verbalizer.longest == 1 else long).append(words)
        return [group for group in (short, long) if group]

    def _word_scores(self, words: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Returns pattern -> scores of the words in all examples, [n, W]."""
        # every word is its own label here, so one pass scores it for all sets of words
        named = {f"word {number}": [word] for number, word in enumerate(words)}
        task = Task(name=self.task.name, labels=tuple(named), patterns=self.task.patterns, verbalizer={**named})
        with borrow_backbone(self.backbone) as backbone:
            classifiers = [ClozeClassifier.of(task, pattern, backbone, self.backbone) for pattern in task.patterns]
            scores = predict_patterns(classifiers, self.examples, self.recorder, "patterns")
        return dict(zip(task.patterns, scores, strict=True))

    def _searched(
        self, pattern: str, vocabulary: Sequence[str], scores: NDArray[np.float64], settings: SearchConfig
    ) -> Candidate:
        gold = self.gold

        def columns(rows: Indices) -> list[list[int]]:
            """Returns the numbers of the words of each label, found in some of the examples."""
            return [
                [
                    item.number
                    for item in rank(
                        scores[rows], (gold[rows] == label).tolist(), settings.method, settings.num_candidates
                    )[: settings.num_words]
                ]
                for label in range(len(self.task.labels))
            ]

        def logits_of(found: Sequence[Sequence[int]]) -> NDArray[np.float64]:
            return np.stack([scores[:, item].mean(axis=1) for item in found], axis=1)

        logits = self._held_out(lambda fitted: logits_of(columns(fitted)))
        assert logits is not None, "every label has two examples, and there are two groups"
        found = columns(np.arange(len(gold)))
        words = {
            label: [vocabulary[number] for number in numbers]
            for label, numbers in zip(self.task.labels, found, strict=True)
        }
        return self._candidate(pattern, words, logits)

    def _calibrated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns held-out calibrated logits; the logits themselves if no label has two examples."""
        held_out = self._held_out(lambda _: logits)
        return logits if held_out is None else held_out

    def _held_out(self, logits_for: Callable[[Indices], NDArray[np.float64]]) -> NDArray[np.float64] | None:
        """Returns logits [n, C] of every example, calibrated on the other folds. `logits_for`: of a model that was
        fitted to some rows.
        """
        return calibrated_logits(logits_for, self.gold, len(self.task.labels), MAX_FOLDS, groups=self.groups)

    def _candidate(self, pattern: str, words: Words, logits: NDArray[np.float64]) -> Candidate:
        found = HeldOutScore.of(logits, self.gold)
        return Candidate(pattern, words, found.accuracy, found.loss)


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns candidates by accuracy, and if it is equal by loss; the best first."""
    return sorted(candidates, key=lambda item: (-item.accuracy, item.loss))
