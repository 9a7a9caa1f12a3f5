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
from stages.common.models.averaging import CONTENT_FREE_TEXTS, calibrate
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import LogitModel, Recorder
from stages.prompt_pretraining.classifier_files import classifier_folder
from stages.prompt_pretraining.config import PATTERN_NAME, SingleConfig


def count_rows(sentences: ConfidentSentences, parts: Iterable[pyarrow.RecordBatch], min_confidence: float) -> None:
    """Counts labelled rows; keeps the sentences whose confidence is `min_confidence` or more."""
    for part in parts:
        for row in part.to_pylist():
            sentences.count(row["fields"]["text"], row["label"], row["confidence"], min_confidence)


def confident_sentences(folder: Path, config: SingleConfig, seen: set[bytes] | None = None) -> ConfidentSentences:
    """What the labelled shards of a folder hold; `seen` gets the digests of their sentences."""
    found = ConfidentSentences({label: [] for label in config.verbalizer})
    for part in iter_rows(folder, ["fields", "label", "confidence"]):
        count_rows(found, [part], config.min_confidence)
        if seen is not None:
            mark_new(part, seen)
    return found


def mark_new(part: pyarrow.Table | pyarrow.RecordBatch, seen: set[bytes]) -> list[bool]:
    """Of each sentence whether it is new; then it is so no more."""
    found = []
    for fields in part.column("fields").to_pylist():
        digest = text_digest(fields["text"])
        found.append(digest not in seen)
        seen.add(digest)
    return found


BATCH_SIZE = 256
"""Sentences that are labelled before it is asked whether there are enough."""


@dataclass(slots=True)
class ConfidentSentences:
    """What was labelled so far. `kept`: label -> sentences, in the order in which they came."""

    kept: dict[str, list[str]]
    num_seen: int = 0
    highest: float = 0.0
    """The highest confidence of all sentences, kept or not."""
    total: dict[str, int] = field(default_factory=dict)
    """Label -> sentences with it, sure or not."""

    def add(self, sentences: Sequence[str], probabilities: NDArray[np.float64], min_confidence: float) -> None:
        """Takes sentences with their [n, C] probabilities, labels in the order of `kept`."""
        labels = tuple(self.kept)
        for sentence, row in zip(sentences, probabilities, strict=True):
            self.count(sentence, labels[int(row.argmax())], float(row.max()), min_confidence)

    def count(self, sentence: str, label: str, confidence: float, min_confidence: float) -> None:
        """Takes one sentence with its likeliest label; kept where its confidence is `min_confidence` or more."""
        self.num_seen += 1
        self.highest = max(self.highest, confidence)
        self.total[label] = self.total.get(label, 0) + 1
        if confidence >= min_confidence:
            self.kept[label].append(sentence)

    def is_enough(self, num_examples: int) -> bool:
        """Whether every class has its share of so many examples."""
        share = -(-num_examples // len(self.kept))  # rounded up
        return all(len(sentences) >= share for sentences in self.kept.values())


@dataclass(frozen=True, slots=True)
class PseudoLabeler:
    """A model, the one field that it reads, and its [C] labels in the order of its logits."""

    model: LogitModel
    field: str
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls, config: SingleConfig, backbone: Backbone | None, settings: BackboneConfig | None, recorder: Recorder
    ) -> PseudoLabeler:
        """The classifier of `config`, or the backbone, which then is needed, without any training.

        Raises:
            AssetError: the classifier is out of reach, or none of one text.
            InputError: its labels are not those of the words.
        """

        if config.classifier is not None:
            classifier = TextClassifier.load(classifier_folder(config))
            return cls(classifier, classifier.fields[0], classifier.labels)
        assert backbone is not None and settings is not None
        cloze = ClozeClassifier.of(config.task, PATTERN_NAME, backbone, settings)
        if config.calibration == "none":
            return cls(cloze, "text", cloze.task.labels)
        neutral = [Example(f"neutral-{text}", {"text": text}) for text in CONTENT_FREE_TEXTS]
        by_neutral = config.calibration == "contextual"
        reference = cloze.predict(neutral, recorder, "neutral texts") if by_neutral else None
        return cls(_Calibrated(cloze, reference), "text", cloze.task.labels)


@dataclass(slots=True)
class _Calibrated:
    """A labeller without its preference for some labels; without a reference the first texts are it."""

    model: LogitModel
    reference: NDArray[np.float64] | None

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        logits = self.model.predict(examples, recorder, phase)
        if self.reference is None:
            self.reference = logits
        return calibrate(logits, self.reference)


def single_examples(
    config: SingleConfig,
    labeler: PseudoLabeler,
    sentences: Iterable[str],
    num_examples: int,
    rng: random.Random,
    recorder: Recorder,
) -> list[Example]:
    """Sentences with the field `text` and the labels that a model is sure of.

    Args:
        config: How sure it must be, and how many sentences may be labelled for that.
        labeler: The model.
        sentences: Distinct sentences, read as far as they are needed.
        num_examples: How many.
        rng: Decides the order.
        recorder: Gets progress, and a table of the labels.

    Raises:
        DataError: too few sentences are labelled surely enough, or all alike.
    """
    found = label_until_enough(config, labeler, sentences, num_examples, recorder)
    log_and_check(config, found, num_examples, recorder)
    return balanced(found.kept, num_examples, rng)


def log_and_check(config: SingleConfig, sentences: ConfidentSentences, num_examples: int, recorder: Recorder) -> None:
    """Shows what was labelled.

    Raises:
        DataError: too few sentences are labelled surely enough, or all alike.
    """
    rows = [(label, sentences.total.get(label, 0), len(kept)) for label, kept in sentences.kept.items()]
    recorder.log_table("pseudo_labels", [{"label": row[0], "labelled": row[1], "sure": row[2]} for row in rows])
    recorder.log_metric("pseudo_labels/highest_confidence", sentences.highest)
    _check_found(config, sentences, num_examples)


def label_until_enough(
    config: SingleConfig, labeler: PseudoLabeler, sentences: Iterable[str], num_examples: int, recorder: Recorder
) -> ConfidentSentences:
    """Labels sentences until every class has its share, or there are no more candidates.

    Args:
        config: How sure, and how many candidates.
        labeler: The model.
        sentences: What is labelled.
        num_examples: Examples in all.
        recorder: Gets progress.
    """
    found = ConfidentSentences({label: [] for label in labeler.labels})
    candidates: Iterator[str] = islice(sentences, num_examples * config.candidates_per_example)
    while not found.is_enough(num_examples):
        batch = list(islice(candidates, BATCH_SIZE))
        if not batch:
            break
        examples = [Example(f"{found.num_seen + row}", {labeler.field: text}) for row, text in enumerate(batch)]
        logits = labeler.model.predict(examples, recorder, "labelling sentences")
        found.add(batch, softmax(logits), config.min_confidence)
    return found


def balanced(kept: Mapping[str, Sequence[str]], num_examples: int, rng: random.Random) -> list[Example]:
    """As many examples of each class, as far as there are enough; what rare classes lack the others make up for."""
    left = num_examples
    chosen: list[tuple[str, str]] = []
    by_size = sorted(kept, key=lambda label: len(kept[label]))
    for done, label in enumerate(by_size):
        count = min(len(kept[label]), left // (len(by_size) - done))
        chosen += [(text, label) for text in kept[label][:count]]
        left -= count
    rng.shuffle(chosen)
    return [Example(f"single-{number}", {"text": text}, label) for number, (text, label) in enumerate(chosen)]


def _check_found(config: SingleConfig, sentences: ConfidentSentences, num_examples: int) -> None:
    """
    Raises:
        DataError: nothing is sure enough, too little is, or all of it has one label.
    """
    num_sure = sum(map(len, sentences.kept.values()))
    seen = f"of {sentences.num_seen:,} sentences"
    highest = f"the highest confidence is {sentences.highest:.3f}, and min_confidence is {config.min_confidence:g}"
    if num_sure < num_examples:
        count = "none is" if num_sure == 0 else f"only {num_sure:,} are"
        raise DataError(
            f"{seen} {count} labelled surely enough, and {num_examples:,} are needed; {highest}.",
            "Lower single.min_confidence or corpus.num_examples, raise single.candidates, or name a larger corpus or a "
            "classifier that is surer (single.classifier).",
            key="single.min_confidence",
        )
    labels = [label for label, kept in sentences.kept.items() if kept]
    if len(labels) < 2:
        raise DataError(
            f"{seen} all {num_sure:,} that are sure have the label {labels[0]!r}, which teaches nothing.",
            "Lower single.min_confidence, mend single.pattern and words, or name a classifier (single.classifier).",
            key="single",
        )
