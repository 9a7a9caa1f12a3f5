"""Sentences to pretraining examples that a model labels: the format `single`.

The labels come from the backbone itself, which answers a pattern without any training, or from a classifier that a
pipeline of this project made. Sentences count only where it is sure; classes are balanced as far as there are enough.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, field_validator, model_validator

from stages.ensembles.members import NEUTRAL, Predictor
from stages.ensembles.mixing import Calibration, calibrate
from stages.errors import AssetError, DataError, InputError
from stages.measures.metrics import softmax
from stages.patterns.language import Pattern
from stages.protocols import Recorder
from stages.tasks import Example, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.models.backbones import Backbone, BackboneConfig

BATCH = 256
"""Sentences that are labelled before it is asked whether there are enough."""

_NAME = "label"
"""The one pattern of the task that labels."""


class SingleConfig(BaseModel, frozen=True, extra="forbid"):
    """What labels the sentences of the format `single`, and how sure it must be."""

    words: dict[str, list[str]] = Field(
        {word: [word] for word in ("terrible", "bad", "okay", "good", "great")},
        min_length=2,
        description="Label -> label words, of the labelling pattern and of the pretraining task.",
    )
    pattern: str = Field(
        "Review: {text}\nSentiment:{mask}",
        description="What the backbone is asked about a sentence, which is the field `text`.",
    )
    calibration: Calibration = Field(
        "pile",
        description="Takes the backbone's preference for some labels away: none, contextual (by texts that say "
        "nothing) or pile (by the first sentences, as if their labels were equally frequent).",
    )
    classifier: str | None = Field(
        None,
        description="Labels in the backbone's place: the folder of a trained student (`model` of a step). Its labels "
        "are the keys of words.",
        json_schema_extra={"identity": False},
    )
    min_confidence: float = Field(0.5, ge=0, lt=1, description="Sentences whose top probability is lower are left out.")
    candidates: int = Field(10, ge=1, description="Sentences labelled at the most, for each example to be built.")

    @field_validator("pattern")
    @classmethod
    def _pattern_reads_text(cls, text: str) -> str:
        parsed = Pattern.parse("pattern", text)
        if parsed.fields != ("text",) or parsed.has_soft_blocks:
            raise ValueError(f"the pattern {text!r} is not one of text alone. Write {{text}} and {{mask}}.")
        return text

    @model_validator(mode="after")
    def _every_label_has_words(self) -> SingleConfig:
        empty = [label for label, words in self.words.items() if not words]
        if empty:
            raise ValueError(f"the label {empty[0]!r} has no word. Give it one.")
        return self

    @property
    def task(self) -> Task:
        """What the backbone is asked."""
        return Task(name="labelling", labels=tuple(self.words), patterns={_NAME: self.pattern}, verbalizer=self.words)


@dataclass(slots=True)
class Sure:
    """What was labelled so far. `kept`: label -> sentences, in the order in which they came."""

    kept: dict[str, list[str]]
    num_seen: int = 0
    highest: float = 0.0
    """The highest confidence of all sentences, kept or not."""
    total: dict[str, int] = field(default_factory=dict)
    """Label -> sentences with it, sure or not."""

    def add(self, sentences: Sequence[str], probabilities: NDArray[np.float64], least: float) -> None:
        """Takes sentences with their [n, C] probabilities, labels in the order of `kept`."""
        labels = tuple(self.kept)
        for sentence, row in zip(sentences, probabilities, strict=True):
            self.note(sentence, labels[int(row.argmax())], float(row.max()), least)

    def note(self, sentence: str, label: str, confidence: float, least: float) -> None:
        """Takes one sentence with its likeliest label; kept where its confidence is `least` or more."""
        self.num_seen += 1
        self.highest = max(self.highest, confidence)
        self.total[label] = self.total.get(label, 0) + 1
        if confidence >= least:
            self.kept[label].append(sentence)

    def is_enough(self, num_examples: int) -> bool:
        """Whether every class has its share of so many examples."""
        share = -(-num_examples // len(self.kept))  # rounded up
        return all(len(sentences) >= share for sentences in self.kept.values())


@dataclass(frozen=True, slots=True)
class Labeller:
    """A model, the one field that it reads, and its [C] labels in the order of its logits."""

    model: Predictor
    field: str
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls, config: SingleConfig, backbone: Backbone | None, settings: BackboneConfig | None, recorder: Recorder
    ) -> Labeller:
        """The classifier of `config`, or the backbone, which then is needed, without any training.

        Raises:
            AssetError: the classifier is out of reach, or none of one text.
            InputError: its labels are not those of the words.
        """
        from stages.models.classifier import TextClassifier
        from stages.patterns.cloze import ClozeClassifier

        if config.classifier is not None:
            classifier = TextClassifier.load(classifier_folder(config))
            return cls(classifier, classifier.fields[0], classifier.labels)
        assert backbone is not None and settings is not None
        cloze = ClozeClassifier.of(config.task, _NAME, backbone, settings)
        if config.calibration == "none":
            return cls(cloze, "text", cloze.task.labels)
        neutral = [Example(f"neutral-{text}", {"text": text}) for text in NEUTRAL]
        by_neutral = config.calibration == "contextual"
        reference = cloze.predict(neutral, recorder, "neutral texts") if by_neutral else None
        return cls(_Calibrated(cloze, reference), "text", cloze.task.labels)


@dataclass(slots=True)
class _Calibrated:
    """A labeller without its preference for some labels; without a reference the first texts are it."""

    model: Predictor
    reference: NDArray[np.float64] | None

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        logits = self.model.predict(examples, recorder, phase)
        if self.reference is None:
            self.reference = logits
        return calibrate(logits, self.reference)


def single_examples(
    config: SingleConfig,
    labeller: Labeller,
    sentences: Iterable[str],
    num_examples: int,
    rng: random.Random,
    recorder: Recorder,
) -> list[Example]:
    """Sentences with the field `text` and the labels that a model is sure of.

    Args:
        config: How sure it must be, and how many sentences may be labelled for that.
        labeller: The model.
        sentences: Distinct sentences, read as far as they are needed.
        num_examples: How many.
        rng: Decides the order.
        recorder: Gets progress, and a table of the labels.

    Raises:
        DataError: too few sentences are labelled surely enough, or all alike.
    """
    found = label_until_enough(config, labeller, sentences, num_examples, recorder)
    settle(config, found, num_examples, recorder)
    return balanced(found.kept, num_examples, rng)


def settle(config: SingleConfig, found: Sure, num_examples: int, recorder: Recorder) -> None:
    """Shows what was labelled.

    Raises:
        DataError: too few sentences are labelled surely enough, or all alike.
    """
    rows = [(label, found.total.get(label, 0), len(kept)) for label, kept in found.kept.items()]
    recorder.table("pseudo_labels", [{"label": row[0], "labelled": row[1], "sure": row[2]} for row in rows])
    recorder.metric("pseudo_labels/highest_confidence", found.highest)
    _check_found(config, found, num_examples)


def label_until_enough(
    config: SingleConfig, labeller: Labeller, sentences: Iterable[str], num_examples: int, recorder: Recorder
) -> Sure:
    """Labels sentences until every class has its share, or there are no more candidates.

    Args:
        config: How sure, and how many candidates.
        labeller: The model.
        sentences: What is labelled.
        num_examples: Examples in all.
        recorder: Gets progress.
    """
    found = Sure({label: [] for label in labeller.labels})
    candidates: Iterator[str] = islice(sentences, num_examples * config.candidates)
    while not found.is_enough(num_examples):
        batch = list(islice(candidates, BATCH))
        if not batch:
            break
        examples = [Example(f"{found.num_seen + row}", {labeller.field: text}) for row, text in enumerate(batch)]
        logits = labeller.model.predict(examples, recorder, "labelling sentences")
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


def _check_found(config: SingleConfig, found: Sure, num_examples: int) -> None:
    """
    Raises:
        DataError: nothing is sure enough, too little is, or all of it has one label.
    """
    num_sure = sum(map(len, found.kept.values()))
    seen = f"of {found.num_seen:,} sentences"
    highest = f"the highest confidence is {found.highest:.3f}, and min_confidence is {config.min_confidence:g}"
    if num_sure < num_examples:
        count = "none is" if num_sure == 0 else f"only {num_sure:,} are"
        raise DataError(
            f"{seen} {count} labelled surely enough, and {num_examples:,} are needed; {highest}.",
            "Lower single.min_confidence or corpus.num_examples, raise single.candidates, or name a larger corpus or a "
            "classifier that is surer (single.classifier).",
            key="single.min_confidence",
        )
    labels = [label for label, kept in found.kept.items() if kept]
    if len(labels) < 2:
        raise DataError(
            f"{seen} all {num_sure:,} that are sure have the label {labels[0]!r}, which teaches nothing.",
            "Lower single.min_confidence, mend single.pattern and words, or name a classifier (single.classifier).",
            key="single",
        )


def classifier_folder(config: SingleConfig) -> Path:
    """The folder of the classifier, fetched if need be, whose labels are those that have words.

    Raises:
        AssetError: it is out of reach, or holds no classifier of one text.
        InputError: its labels are not the keys of `words`.
    """
    from stages.texts import assets

    assert config.classifier is not None
    folder = assets.resolve(config.classifier)
    try:
        about = json.loads((folder / "classifier.json").read_text())
        labels, fields = set(about["labels"]), about["fields"]
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"{folder} holds no classifier ({error}).", "Name the folder `model` of a step distill/<seed>.",
            key="single.classifier",
        ) from error  # fmt: skip
    if len(fields) != 1:
        raise AssetError(
            f"the classifier in {folder} reads pairs of texts.", "Name one of single texts.", key="single.classifier"
        )
    if labels != set(config.words):
        raise InputError(
            f"the classifier's labels are {sorted(labels)}, and words are given for {sorted(config.words)}.",
            "Give words for each of its labels.",
            key="single.words",
        )
    return folder
