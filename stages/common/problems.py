"""The classification problems: each example has exactly one label, one label of an order, or any number of labels.

What differs is here, and the losses are in stages/common/losses.py. Ordered labels are learned and predicted like other
labels; the difference is how far apart two of them are. As in scikit-learn, the gold labels of n examples
are an array: [n] indices of the labels or, for several labels per example, [n, C] of 0 and 1. A multi-label problem is
C binary decisions per example, each with a logit of its own (binary relevance; one-vs-rest in scikit-learn). A label is
predicted if its logit is above 0, so a threshold per label is a bias per label. The names are those of `problem_type`
in transformers. Letters in names of arrays: n examples, C labels, d decisions, K options of a decision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from stages.common.config import MULTI_LABEL, ORDINAL, SINGLE_LABEL, ProblemType
from stages.common.examples import Example, Label, one_label
from stages.common.metrics.classification import Score, per_class_report, score, softmax
from stages.common.metrics.multi_label import multi_label_score, per_label_report
from stages.common.metrics.ordinal import mean_absolute_error, quadratic_kappa

Gold = NDArray[Any]
"""[n] indices of the labels, int64; or [n, C] of 0 and 1, float64."""
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class Problem(ABC):
    """A classification problem with C labels."""

    problem_type: ClassVar[ProblemType]
    labels: tuple[str, ...]
    """[C] in the order of the logits."""

    @abstractmethod
    def gold(self, labels: Sequence[Label | None]) -> Gold:
        """Returns the gold labels of examples as an array.

        Raises:
            ValueError: an example has no label, or one that is not in `labels`.
        """

    def gold_of(self, examples: Sequence[Example]) -> Gold:
        """Returns the gold labels of examples as an array; raises as `gold`."""
        return self.gold([item.label for item in examples])

    @abstractmethod
    def names(self, predicted: Gold) -> list[Label]:
        """Returns the labels of each example, from an array as `gold` and `predict` return it."""

    @abstractmethod
    def targets(self, gold: Gold) -> NDArray[np.float64]:
        """Returns the probability of each label, [n, C]: 0 or 1."""

    @abstractmethod
    def strata(self, gold: Gold) -> NDArray[np.int64]:
        """Returns a number per example, [n], for samples and folds that keep the proportions of the labels."""

    @abstractmethod
    def similarities(self, gold: Gold) -> NDArray[np.float64]:
        """Returns how similar the labels of each pair of examples are, [n, n]: from 0 to 1, which means equal."""

    @abstractmethod
    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns probabilities, [..., C], from logits of the same shape."""

    @abstractmethod
    def logits(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns logits, [..., C], that have these probabilities."""

    @abstractmethod
    def predict(self, logits: NDArray[np.float64]) -> Gold:
        """Returns the predicted labels of logits, [n, C]."""

    @abstractmethod
    def is_right(self, logits: NDArray[np.float64], gold: Gold) -> NDArray[np.bool_]:
        """Returns whether all labels of an example are predicted, and no other, [n]."""

    @abstractmethod
    def confidence(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the probability of the least certain decision about each example, [n]."""

    @abstractmethod
    def decision_logits(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the logits of single decisions, [..., d, K], from logits [..., n, C]. Softmax makes probabilities."""

    @abstractmethod
    def decisions(self, gold: Gold) -> NDArray[np.int64]:
        """Returns the right option of each decision, [d]."""

    @abstractmethod
    def score(
        self,
        logits: NDArray[np.float64],
        labels: Sequence[Label | None],
        questions: Sequence[str | None] | None = None,
    ) -> Score:
        """Compares logits, [n, C], with the labels of examples. `questions`: what each example answers."""

    @abstractmethod
    def report(self, logits: NDArray[np.float64], labels: Sequence[Label | None]) -> list[dict[str, Any]]:
        """Returns a row per label with its precision, recall, F1 and counts."""


class SingleLabel(Problem):
    """Each example has one label. The C options of its decision are the labels."""

    problem_type: ClassVar[ProblemType] = SINGLE_LABEL

    def gold(self, labels: Sequence[Label | None]) -> Gold:
        return np.array([self.labels.index(one_label(label)) for label in labels], dtype=np.int64)

    def names(self, predicted: Gold) -> list[Label]:
        return [self.labels[index] for index in predicted]

    def targets(self, gold: Gold) -> NDArray[np.float64]:
        return np.eye(len(self.labels))[gold]

    def strata(self, gold: Gold) -> NDArray[np.int64]:
        return gold

    def similarities(self, gold: Gold) -> NDArray[np.float64]:
        is_equal: NDArray[np.bool_] = gold[:, None] == gold[None, :]
        return is_equal.astype(np.float64)

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(logits)

    def logits(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        log_probabilities: NDArray[np.float64] = np.log(np.maximum(probabilities, MIN_PROBABILITY))
        return log_probabilities

    def predict(self, logits: NDArray[np.float64]) -> Gold:
        predicted: Gold = logits.argmax(axis=1)
        return predicted

    def is_right(self, logits: NDArray[np.float64], gold: Gold) -> NDArray[np.bool_]:
        return np.asarray(self.predict(logits) == gold)

    def confidence(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        highest: NDArray[np.float64] = probabilities.max(axis=1)
        return highest

    def decision_logits(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return logits

    def decisions(self, gold: Gold) -> NDArray[np.int64]:
        return gold

    def score(
        self,
        logits: NDArray[np.float64],
        labels: Sequence[Label | None],
        questions: Sequence[str | None] | None = None,
    ) -> Score:
        return score(logits, list(map(one_label, labels)), self.labels, questions)

    def report(self, logits: NDArray[np.float64], labels: Sequence[Label | None]) -> list[dict[str, Any]]:
        return per_class_report(logits, list(map(one_label, labels)), self.labels)


class OrderedLabels(SingleLabel):
    """Each example has one label, and `labels` are ordered from low to high."""

    problem_type = ORDINAL

    def similarities(self, gold: Gold) -> NDArray[np.float64]:
        distances: NDArray[np.float64] = np.abs(gold[:, None] - gold[None, :]) / max(1, len(self.labels) - 1)
        return 1.0 - distances

    def score(
        self,
        logits: NDArray[np.float64],
        labels: Sequence[Label | None],
        questions: Sequence[str | None] | None = None,
    ) -> Score:
        truth, predicted = self.gold(labels), self.predict(logits)
        return replace(
            SingleLabel.score(self, logits, labels, questions),
            mae=mean_absolute_error(truth, predicted),
            qwk=quadratic_kappa(truth, predicted, len(self.labels)),
        )


class MultiLabel(Problem):
    """Each example has any number of labels, also none. Each label is a decision: absent or present."""

    problem_type = MULTI_LABEL

    def gold(self, labels: Sequence[Label | None]) -> Gold:
        gold_nC = np.zeros((len(labels), len(self.labels)))
        for row, names in enumerate(labels):
            if not isinstance(names, tuple):
                raise ValueError(f"{names!r} is not a tuple of labels")
            gold_nC[row, [self.labels.index(name) for name in names]] = 1
        return gold_nC

    def names(self, predicted: Gold) -> list[Label]:
        return [tuple(self.labels[index] for index in np.flatnonzero(row)) for row in predicted]

    def targets(self, gold: Gold) -> NDArray[np.float64]:
        return gold

    def strata(self, gold: Gold) -> NDArray[np.int64]:
        """Returns the rarest label of each example, or C if it has none: frequent labels are spread well anyway."""
        order_C = np.argsort(gold.sum(axis=0), kind="stable")
        rarest_n = order_C[gold[:, order_C].argmax(axis=1)]
        return np.where(gold.any(axis=1), rarest_n, len(self.labels))

    def similarities(self, gold: Gold) -> NDArray[np.float64]:
        """Returns the Jaccard index of each pair of label sets: the share of their labels that they have in common."""
        shared, sizes = gold @ gold.T, gold.sum(axis=1)
        either = sizes[:, None] + sizes[None, :] - shared
        index: NDArray[np.float64] = shared / np.maximum(either, 1)
        return index

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        probabilities: NDArray[np.float64] = expit(np.asarray(logits, dtype=np.float64))
        return probabilities

    def logits(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        logits: NDArray[np.float64] = logit(np.clip(probabilities, MIN_PROBABILITY, 1 - MIN_PROBABILITY))
        return logits

    def predict(self, logits: NDArray[np.float64]) -> Gold:
        return (np.asarray(logits) > 0).astype(np.float64)

    def is_right(self, logits: NDArray[np.float64], gold: Gold) -> NDArray[np.bool_]:
        return np.asarray((self.predict(logits) == gold).all(axis=1))

    def confidence(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        lowest: NDArray[np.float64] = np.maximum(probabilities, 1 - probabilities).min(axis=1)
        return lowest

    def decision_logits(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = np.stack([np.zeros_like(logits), logits], axis=-1)
        return pairs.reshape(*logits.shape[:-2], logits.shape[-2] * logits.shape[-1], 2)

    def decisions(self, gold: Gold) -> NDArray[np.int64]:
        return gold.ravel().astype(np.int64)

    def score(
        self,
        logits: NDArray[np.float64],
        labels: Sequence[Label | None],
        questions: Sequence[str | None] | None = None,
    ) -> Score:
        del questions  # an answer is right or wrong, so its question is a single-label problem
        return multi_label_score(self.probabilities(logits), self.gold(labels))

    def report(self, logits: NDArray[np.float64], labels: Sequence[Label | None]) -> list[dict[str, Any]]:
        return per_label_report(self.predict(logits), self.gold(labels), self.labels)


def problem_of(labels: Sequence[str], problem_type: ProblemType) -> Problem:
    """Returns the problem of a type. `labels`: [C] in the order of the logits."""
    return _PROBLEMS[problem_type](tuple(labels))


_PROBLEMS: dict[ProblemType, type[Problem]] = {
    item.problem_type: item for item in (SingleLabel, MultiLabel, OrderedLabels)
}
