"""Pseudo-labels sentences for the pretraining format `single`.

The labels come from the backbone itself, which answers a pattern zero-shot, or from a classifier that a pipeline of
this project trained. Only sentences with a confident prediction are used; classes are balanced as far as there are
enough.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray

from stages.common.data.corpora import text_digest
from stages.common.data.parquet_shards import iter_rows
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import calibrate
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.config import CONTENT_FREE_TEXTS
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import LogitModel, Recorder
from stages.prompt_pretraining.classifier_files import classifier_folder
from stages.prompt_pretraining.config import PATTERN_NAME, SingleConfig

BATCH_SIZE = 256
"""Sentences to label before checking if there are enough."""


@dataclass(slots=True)
class ConfidentSentences:
    """The sentences that were labeled so far."""

    kept: dict[str, list[str]]
    """Label -> sentences with enough confidence, in the order of labeling."""
    num_seen: int = 0
    highest: float = 0.0
    """The highest confidence of all sentences, kept or not."""
    total: dict[str, int] = field(default_factory=dict)
    """Label -> number of sentences with it, kept or not."""

    def add(self, sentences: Sequence[str], probabilities: NDArray[np.float64], min_confidence: float) -> None:
        """Adds sentences with their [n, C] probabilities, labels in the order of `kept`."""
        labels = tuple(self.kept)
        for sentence, row in zip(sentences, probabilities, strict=True):
            self._count(sentence, labels[int(row.argmax())], float(row.max()), min_confidence)

    def add_rows(self, rows: pyarrow.Table | pyarrow.RecordBatch, min_confidence: float) -> None:
        """Adds labeled rows of a shard."""
        for row in rows.to_pylist():
            self._count(row["fields"]["text"], row["label"], row["confidence"], min_confidence)

    def is_enough(self, num_examples: int) -> bool:
        """Returns True if every class has its share of `num_examples`."""
        share = -(-num_examples // len(self.kept))  # rounded up
        return all(len(sentences) >= share for sentences in self.kept.values())

    def _count(self, sentence: str, label: str, confidence: float, min_confidence: float) -> None:
        self.num_seen += 1
        self.highest = max(self.highest, confidence)
        self.total[label] = self.total.get(label, 0) + 1
        if confidence >= min_confidence:
            self.kept[label].append(sentence)


def confident_sentences(folder: Path, config: SingleConfig, seen: set[bytes] | None = None) -> ConfidentSentences:
    """Reads the labeled sentences in the shards of a folder; adds their digests to `seen`."""
    sentences = ConfidentSentences({label: [] for label in config.verbalizer})
    for rows in iter_rows(folder, ["fields", "label", "confidence"]):
        sentences.add_rows(rows, config.min_confidence)
        if seen is not None:
            mark_new(rows, seen)
    return sentences


def mark_new(rows: pyarrow.Table | pyarrow.RecordBatch, seen: set[bytes]) -> list[bool]:
    """Returns for each sentence whether its digest is not in `seen`; adds the digest."""
    is_new = []
    for fields in rows.column("fields").to_pylist():
        digest = text_digest(fields["text"])
        is_new.append(digest not in seen)
        seen.add(digest)
    return is_new


@dataclass(frozen=True, slots=True)
class PseudoLabeler:
    """The model that labels, the one field that it reads, and its [C] labels in the order of its logits."""

    model: LogitModel
    field: str
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls, config: SingleConfig, backbone: Backbone | None, settings: BackboneConfig | None, recorder: Recorder
    ) -> PseudoLabeler:
        """Loads the classifier of `config`, or else uses the backbone zero-shot.

        Args:
            config: Classifier or pattern, and calibration.
            backbone: Needed without a classifier.
            settings: Settings of the backbone.
            recorder: Gets progress.

        Raises:
            AssetError: the classifier is unavailable, or is not a classifier of single texts.
            InputError: its labels are not those of the verbalizer.
        """
        if config.classifier is not None:
            classifier = TextClassifier.load(classifier_folder(config))
            return cls(classifier, classifier.fields[0], classifier.labels)
        assert backbone is not None and settings is not None
        cloze = ClozeClassifier.of(config.task, PATTERN_NAME, backbone, settings)
        if config.calibration == "none":
            return cls(cloze, "text", cloze.task.labels)
        reference = None
        if config.calibration == "contextual":
            content_free = [Example(f"neutral-{text}", {"text": text}) for text in CONTENT_FREE_TEXTS]
            reference = cloze.predict(content_free, recorder, "content-free texts")
        return cls(_Calibrated(cloze, reference), "text", cloze.task.labels)


@dataclass(slots=True)
class _Calibrated:
    """A model whose prior preference for labels is removed. Default reference: the first examples that it reads."""

    model: LogitModel
    reference: NDArray[np.float64] | None

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        logits = self.model.predict(examples, recorder, phase)
        if self.reference is None:
            self.reference = logits
        return calibrate(logits, self.reference)


def single_examples(
    config: SingleConfig,
    labeler: PseudoLabeler,
    sentences: Iterable[str],
    num_examples: int,
    *,
    rng: random.Random,
    recorder: Recorder,
) -> list[Example]:
    """Returns sentences, the field `text`, with the labels that a model predicts with enough confidence.

    Args:
        config: Minimum confidence, and the number of candidates.
        labeler: The model.
        sentences: Distinct sentences, read as far as needed.
        num_examples: Number of examples.
        rng: Shuffles the examples.
        recorder: Gets progress, and a table of the labels.

    Raises:
        DataError: too few sentences are labeled with enough confidence, or all of them have the same label.
    """
    labeled = label_until_enough(config, labeler, sentences, num_examples, recorder)
    log_and_check(config, labeled, num_examples, recorder)
    return balanced(labeled.kept, num_examples, rng)


def label_until_enough(
    config: SingleConfig, labeler: PseudoLabeler, sentences: Iterable[str], num_examples: int, recorder: Recorder
) -> ConfidentSentences:
    """Labels sentences until every class has its share of the examples, or there are no more candidates.

    The arguments are those of `single_examples`.
    """
    labeled = ConfidentSentences({label: [] for label in labeler.labels})
    candidates: Iterator[str] = islice(sentences, num_examples * config.candidates_per_example)
    while not labeled.is_enough(num_examples) and (batch := list(islice(candidates, BATCH_SIZE))):
        examples = [Example(f"{labeled.num_seen + row}", {labeler.field: text}) for row, text in enumerate(batch)]
        logits = labeler.model.predict(examples, recorder, "labeling sentences")
        labeled.add(batch, softmax(logits), config.min_confidence)
    return labeled


def log_and_check(config: SingleConfig, sentences: ConfidentSentences, num_examples: int, recorder: Recorder) -> None:
    """Records how many sentences have each label, and checks that they are enough.

    Raises:
        DataError: too few sentences are labeled with enough confidence, or all of them have the same label.
    """
    rows = [
        {"label": label, "labeled": sentences.total.get(label, 0), "kept": len(kept)}
        for label, kept in sentences.kept.items()
    ]
    recorder.log_table("pseudo_labels", rows)
    recorder.log_metric("pseudo_labels/highest_confidence", sentences.highest)
    num_kept = sum(map(len, sentences.kept.values()))
    if num_kept < num_examples:
        raise DataError(
            f"{num_kept:,} of {sentences.num_seen:,} sentences are labeled with the confidence "
            f"{config.min_confidence:g} or more, but {num_examples:,} are needed; the highest confidence is "
            f"{sentences.highest:.3f}.",
            "Lower single.min_confidence or corpus.num_examples, raise single.candidates_per_example, or use a larger "
            "corpus or a more confident classifier (single.classifier).",
            key="single.min_confidence",
        )
    labels = [label for label, kept in sentences.kept.items() if kept]
    if len(labels) < 2:
        raise DataError(
            f"all {num_kept:,} confident sentences of {sentences.num_seen:,} have the same label, {labels[0]!r}.",
            "Lower single.min_confidence, change single.pattern and single.verbalizer, or set a classifier "
            "(single.classifier).",
            key="single",
        )


def balanced(kept: Mapping[str, Sequence[str]], num_examples: int, rng: random.Random) -> list[Example]:
    """Returns equal numbers of examples per class. If a class has too few, the other classes provide more."""
    num_left = num_examples
    chosen: list[tuple[str, str]] = []
    by_size = sorted(kept, key=lambda label: len(kept[label]))
    for num_done, label in enumerate(by_size):
        count = min(len(kept[label]), num_left // (len(by_size) - num_done))
        chosen += [(text, label) for text in kept[label][:count]]
        num_left -= count
    rng.shuffle(chosen)
    return [Example(f"single-{number}", {"text": text}, label) for number, (text, label) in enumerate(chosen)]
