"""Predictors: one interface for classifiers, soft prompts of several tasks, and prompts for token-level tasks.

`clozeline predict` calls it line by line, `clozeline serve` batch by batch, an MLflow model table by table. Never
imports `cluster`: registered models carry only `pipelines` and `stages`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.problems import MultiLabel
from stages.common.protocols import NullRecorder

if TYPE_CHECKING:
    from stages.common.models.encoders.text_classifier import TextClassifier

Item = TypeVar("Item")
Row = Mapping[str, Any]
TASK = "task"
"""The field that names the task of a row, if several tasks are served."""
CHARACTERS_PER_TOKEN = 100
"""Characters of a text that are read per token of `max_length`. Tokens have 3 to 5 characters on average."""


class Predictor(ABC, Generic[Item]):
    """Parses rows into items and predicts them in order."""

    kind: str
    tasks: Mapping[str, tuple[str, ...]]
    """Task -> the fields of its rows. The only task of a classifier has an empty name."""
    labels: Mapping[str, tuple[str, ...]]
    """Task -> its labels."""
    answers: tuple[str, ...]
    """Names of the values of a prediction."""

    @abstractmethod
    def parse_row(self, row: Row, uid: str) -> Item:
        """Returns the item of a row.

        Raises:
            DataError: a field is missing, empty or not text; `key` names it.
        """

    @abstractmethod
    def predict(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Returns [n] predictions, in the order of `items`."""

    def plain_field(self, task: str | None = None) -> str | None:
        """Returns the field that plain text sets; None if a row has several fields or must name its task."""
        if len(self.tasks) == 1:
            (fields,) = self.tasks.values()
        else:
            fields = self.tasks.get(task or "", ())
        return fields[0] if len(fields) == 1 else None

    def has_task(self, task: str) -> bool:
        """Returns True if rows may name this task."""
        return task in self.tasks

    def task_of(self, item: Item) -> str:
        """Returns the name of the task of an item."""
        del item
        return next(iter(self.tasks))

    def example(self) -> dict[str, str]:
        """Returns a row that the model can read. It is made up, because services show it to their clients."""
        task, fields = next(iter(self.tasks.items()))
        row = made_up_row(fields)
        return {TASK: task, **row} if len(self.tasks) > 1 else row


class ClassifierPredictor(Predictor[Example]):
    """A text classifier: an encoder with a head, or TF-IDF. With several labels per text, `label` is a list."""

    kind = "classifier"
    answers = ("label", "probabilities")

    def __init__(self, classifier: TextClassifier | TfidfClassifier) -> None:
        self._classifier = classifier
        self.tasks = {"": self._classifier.fields}
        self.labels = {"": self._classifier.labels}

    def parse_row(self, row: Row, uid: str) -> Example:
        example = example_of(row, self.tasks[""], uid)
        if isinstance(self._classifier, TfidfClassifier):  # it reads the whole text
            return example
        encoder = self._classifier.encoder
        return shortened(example, encoder.max_length, keeps_end=encoder.tokenizer.truncation_side == "left")

    @property
    def gives_label_sets(self) -> bool:
        """Returns True if a text has any number of labels."""
        return isinstance(self._classifier.problem, MultiLabel)

    def predict(self, items: Sequence[Example]) -> list[dict[str, Any]]:
        problem = self._classifier.problem
        logits = self._classifier.predict(items, NullRecorder(), "")
        labels, probabilities = problem.names(problem.predict(logits)), problem.probabilities(logits)
        return [
            {
                "label": list(label) if isinstance(label, tuple) else label,
                "probabilities": dict(zip(problem.labels, row.round(6).tolist(), strict=True)),
            }
            for label, row in zip(labels, probabilities, strict=True)
        ]

    def confidence(self, prediction: Mapping[str, Any]) -> float:
        """Returns the probability of the least certain decision of a prediction."""
        probabilities = np.array([list(prediction["probabilities"].values())])
        return float(self._classifier.problem.confidence(probabilities)[0])


def made_up_row(fields: Iterable[str]) -> dict[str, str]:
    """Returns a row with some text in each field."""
    return {field: f"Some {field.replace('_', ' ')}." for field in fields}


def example_of(row: Row, fields: Iterable[str], uid: str) -> Example:
    """Returns the example with these fields of a row.

    Raises:
        DataError: a field is missing, empty or not text; `key` names it.
    """
    texts = {}
    for field in fields:
        value = row.get(field)
        if value is None or not isinstance(value, str) or not value.strip():
            state = (
                "missing" if field not in row else "empty" if isinstance(value, str) or value is None else "not text"
            )
            raise DataError(f"the field {field!r} is {state}.", f'Write {{"{field}": "some text"}}.', key=field)
        check_text(value, field)
        texts[field] = value
    return Example(uid, texts)


def shortened(example: Example, max_length: int, *, keeps_end: bool = False) -> Example:
    """Returns an example without the text that no model reads, so that a long text takes no longer than a short one.

    Args:
        example: The example.
        max_length: Maximum number of tokens that the model reads.
        keeps_end: True if the model reads the end of a long text.
    """
    size = CHARACTERS_PER_TOKEN * max_length
    if all(len(text) <= size for text in example.fields.values()):
        return example
    fields = {
        name: text if len(text) <= size else text.rstrip()[-size:] if keeps_end else text.lstrip()[:size]
        for name, text in example.fields.items()
    }
    return replace(example, fields=fields)


def check_text(value: str, field: str) -> None:
    """Checks the text of a field.

    Raises:
        DataError: it has half a surrogate pair, which JSON and Python allow, and tokenizers do not.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the field {field!r} has half a surrogate pair at character {error.start}.",
            "Send both halves of characters above U+FFFF.",
            key=field,
        ) from None
