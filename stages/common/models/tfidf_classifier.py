"""Logistic regression or naive Bayes on TF-IDF features: n-grams of words or of characters, without a pretrained model.

Both are linear in the features, so they have the same files and predict in the same way.
A folder has `tfidf.json` (labels, fields, vocabulary) and `tfidf.safetensors` (inverse document frequencies, weights).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from stages.common.config import MULTI_LABEL, SINGLE_LABEL, ProblemType, TextTaskConfig
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.config import Analyzer
from stages.common.models.tfidf_config import DEFAULT_REGULARIZATION_C, TfidfSettings, WordClassifier
from stages.common.problems import problem_of
from stages.common.protocols import Recorder

TFIDF_FILE = "tfidf.json"
WEIGHTS_FILE = "tfidf.safetensors"
MIN_PROBABILITY = 0.01
"""A label with a lower probability for an example is not fitted to it: most of many labels have one near 0."""
_NGRAMS: dict[Analyzer, tuple[int, int]] = {"word": (1, 2), "char": (1, 4)}


class TfidfClassifier:
    """text -> n-grams -> sparse TF-IDF features -> [n, C] logits.

    Args:
        labels: [C] labels, in the order of the logits.
        fields: Fields to read, joined by a line break.
        analyzer: Units of the n-grams.
        regularization_c: C of scikit-learn's LogisticRegression.
        max_features: Maximum number of n-grams. The most frequent ones are kept.
        classifier: What is fitted to the features.
        smoothing: alpha of scikit-learn's MultinomialNB.
        problem_type: One label per example, or any number.
    """

    def __init__(
        self,
        labels: Sequence[str],
        fields: Sequence[str],
        analyzer: Analyzer,
        regularization_c: float = DEFAULT_REGULARIZATION_C,
        max_features: int | None = None,
        *,
        classifier: WordClassifier = "logistic_regression",
        smoothing: float = 1.0,
        problem_type: ProblemType = SINGLE_LABEL,
    ) -> None:
        self.problem = problem_of(labels, problem_type)
        self.labels = tuple(labels)
        self.fields = tuple(fields)
        self.analyzer: Analyzer = analyzer
        self.regularization_c = regularization_c
        self.classifier: WordClassifier = classifier
        self.smoothing = smoothing
        self.vectorizer = _vectorizer(analyzer, max_features)
        self.weight = np.zeros((len(self.labels), 0))
        self.bias = np.zeros(len(self.labels))

    @classmethod
    def of(cls, settings: TfidfSettings, task: TextTaskConfig) -> TfidfClassifier:
        """Returns a classifier that is not fitted yet."""
        return cls(
            task.labels, task.fields, settings.analyzer, settings.regularization_c, settings.max_features,
            classifier=settings.classifier, smoothing=settings.smoothing, problem_type=task.problem_type,
        )  # fmt: skip

    def fit(
        self,
        examples: Sequence[Example],
        targets: NDArray[np.float64] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> TfidfClassifier:
        """Fits vocabulary and weights: multinomial or, for several labels per example, one-vs-rest. A label without an
        example is never predicted.

        Args:
            examples: [n] examples.
            targets: [n, C] probabilities of the labels. Default: the gold labels.
            weights: [n] weight of each example. Default: 1.

        Raises:
            InputError: the texts have no words.
        """
        try:
            features = self.vectorizer.fit_transform(self._texts(examples))
        except ValueError as error:  # the only one that scikit-learn raises for texts: the vocabulary is empty
            raise InputError("the training texts have no words.", "Set analyzer: char.", key="analyzer") from error
        if targets is None:
            targets = self.problem.targets(self.problem.gold_of(examples))
        if self.problem.problem_type == MULTI_LABEL:
            self._fit_one_vs_rest(features, targets, np.ones(len(targets)) if weights is None else weights)
        else:
            self._fit_multinomial(features, targets, weights)
        return self

    def _fit_multinomial(
        self, features: Any, targets: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> None:
        # scikit-learn takes one label per row: an example has a row per probable label, with its probability as weight
        rows, fitted_labels = np.nonzero(targets >= MIN_PROBABILITY)
        sample_weights = targets[rows, fitted_labels] * (1.0 if weights is None else weights[rows])
        self.weight = np.zeros((len(self.labels), features.shape[1]))
        self.bias = np.full(len(self.labels), -100.0)
        known = np.unique(fitted_labels)
        if len(known) == 1:
            self.bias[known] = 0.0
            return
        self.weight[known], self.bias[known] = self._fit_rows(features[rows], fitted_labels, sample_weights)

    def _fit_rows(
        self, features: Any, classes: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns weight [K, F] and bias [K] of the K > 1 different classes of rows, in ascending order."""
        if self.classifier == "naive_bayes":
            bayes = MultinomialNB(alpha=self.smoothing).fit(features, classes, weights)
            return bayes.feature_log_prob_, bayes.class_log_prior_
        model = LogisticRegression(C=self.regularization_c, max_iter=1000).fit(features, classes, weights)
        if len(model.classes_) > 2:
            return model.coef_, model.intercept_
        # for two classes scikit-learn fits one vector, for the second one
        coef, intercept = model.coef_ / 2, model.intercept_ / 2
        return np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])

    def _fit_one_vs_rest(self, features: Any, targets: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        self.weight = np.zeros((len(self.labels), features.shape[1]))
        self.bias = np.full(len(self.labels), -100.0)
        for label, target in enumerate(targets.T):
            # scikit-learn takes one class per row: an example has a row per probable class, weighted by its probability
            options = np.stack([1 - target, target], axis=1)
            rows, is_label = np.nonzero(options >= MIN_PROBABILITY)
            if is_label.min() == is_label.max():
                self.bias[label] = 100.0 if is_label.any() else -100.0
                continue
            fitted, biases = self._fit_rows(features[rows], is_label, options[rows, is_label] * weights[rows])
            self.weight[label], self.bias[label] = fitted[1] - fitted[0], biases[1] - biases[0]

    def add_bias(self, bias_C: NDArray[np.float64]) -> None:
        """Adds to the bias of each label."""
        self.bias = self.bias + bias_C

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        features = self.vectorizer.transform(self._texts(examples))
        logits: NDArray[np.float64] = features @ self.weight.T + self.bias
        recorder.log_progress(len(examples), len(examples), phase=phase)
        return logits

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return int(self.weight.size + self.bias.size)

    def save(self, folder: Path) -> None:
        """Writes the classifier."""
        vocabulary = [term for term, _ in sorted(self.vectorizer.vocabulary_.items(), key=lambda item: item[1])]
        metadata = {
            "labels": self.labels,
            "problem_type": self.problem.problem_type,
            "fields": self.fields,
            "analyzer": self.analyzer,
            "classifier": self.classifier,
            "regularization_c": self.regularization_c,
            "smoothing": self.smoothing,
            "vocabulary": vocabulary,
        }
        (folder / TFIDF_FILE).write_text(json.dumps(metadata, ensure_ascii=False) + "\n", encoding="utf-8")
        tensors = {"idf": self.vectorizer.idf_, "weight": self.weight, "bias": self.bias}
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> TfidfClassifier:
        """Loads the classifier that `save` wrote."""
        metadata = json.loads((folder / TFIDF_FILE).read_text(encoding="utf-8"))
        classifier = cls(
            metadata["labels"], metadata["fields"], metadata["analyzer"], metadata["regularization_c"],
            classifier=metadata.get("classifier", "logistic_regression"), smoothing=metadata.get("smoothing", 1.0),
            problem_type=metadata.get("problem_type", SINGLE_LABEL),
        )  # fmt: skip
        classifier.vectorizer = _vectorizer(classifier.analyzer, vocabulary=metadata["vocabulary"])
        tensors = load_file(folder / WEIGHTS_FILE)
        classifier.vectorizer.idf_ = tensors["idf"]
        classifier.weight, classifier.bias = tensors["weight"], tensors["bias"]
        return classifier

    def _texts(self, examples: Sequence[Example]) -> list[str]:
        return ["\n".join(item.fields[name] for name in self.fields) for item in examples]


def _vectorizer(analyzer: Analyzer, max_features: int | None = None, *, vocabulary: Sequence[str] | None = None) -> Any:
    terms = None if vocabulary is None else {term: number for number, term in enumerate(vocabulary)}
    # one-letter words count: they are whole words in some languages, and signs of a label in others
    return TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=_NGRAMS[analyzer],
        sublinear_tf=True,
        max_features=max_features,
        vocabulary=terms,
        token_pattern=r"(?u)\b\w+\b" if analyzer == "word" else None,
    )
