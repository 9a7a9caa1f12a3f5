"""Predictors: one interface for the classifier, soft prompts of several tasks, and prompts for token-level tasks.

`clozeline predict` calls it line by line, `clozeline serve` batch by batch, an MLflow model table by table. Never
imports `cluster`: registered models carry only `pipelines` and `stages`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from stages.common.errors import AssetError, DataError, InputError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.cloze.multi_task import predict_multi_task
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.tfidf_classifier import TFIDF_FILE, TfidfClassifier
from stages.common.problems import MultiLabel
from stages.common.prompts.loader import load_prompts
from stages.common.protocols import NullRecorder
from stages.token_level.examples import Question, TaggedText, TokenLevelExample
from stages.token_level.heads import load_token_level_model
from stages.token_level.metrics import entities

Item = TypeVar("Item")
Row = Mapping[str, Any]
TASK = "task"
"""The field that names the task of a row, if several tasks are served."""
CLASSIFIER, PROMPT_MODEL, TOKEN_LEVEL_MODEL = "classifier.json", "prompt_model.json", "token_level_model.json"
"""The file that identifies the folder of each kind of model."""
CHARACTERS_PER_TOKEN = 100
"""Characters of a text that are read per token of `max_length`. Tokens have 3 to 5 characters on average."""
MODEL_FILES = (CLASSIFIER, TFIDF_FILE, PROMPT_MODEL, TOKEN_LEVEL_MODEL)


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

    def example(self) -> dict[str, str]:
        """Returns a row that the model can read. It is made up, because services show it to their clients."""
        task, fields = next(iter(self.tasks.items()))
        row = {field: f"Some {field.replace('_', ' ')}." for field in fields}
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


class PromptPredictor(Predictor[tuple[int, Example]]):
    """Soft prompts for one backbone. A row names its task, which selects the prompt."""

    kind = "prompts"
    answers = (TASK, "label", "probabilities")

    def __init__(self, folders: Sequence[Path]) -> None:
        self._classifiers = load_prompts(folders)
        self._names = [item.task.name for item in self._classifiers]
        self.tasks = {item.task.name: item.task.fields for item in self._classifiers}
        self.labels = {item.task.name: item.task.labels for item in self._classifiers}

    def parse_row(self, row: Row, uid: str) -> tuple[int, Example]:
        task = row.get(TASK, self._names[0] if len(self._names) == 1 else None)
        if not isinstance(task, str) or task not in self.tasks:
            problem = "the field task is missing" if task is None else f"the task {task!r} has no prompt here"
            raise DataError(f"{problem}.", f'Set "task" to one of {", ".join(self.tasks)}.', key=TASK)
        number = self._names.index(task)
        example = example_of(row, self.tasks[task], uid)
        return number, shortened(example, self._classifiers[number].encoder.max_length)

    def predict(self, items: Sequence[tuple[int, Example]]) -> list[dict[str, Any]]:
        logits = predict_multi_task(self._classifiers, items)
        return [
            {TASK: self._names[number], **_probabilities(scores, self._classifiers[number].task.labels)}
            for (number, _), scores in zip(items, logits, strict=True)
        ]


class TokenLevelPredictor(Predictor[TokenLevelExample]):
    """A soft prompt for token classification or question answering.

    Token classification reads `words` (a list) or `text` (split at spaces), and returns `words`, `labels` and
    `entities`. Question answering reads `question` and `context`, and returns `answer`.
    """

    kind = "annotations"

    def __init__(self, folder: Path) -> None:
        self._model = load_token_level_model(folder)
        task = self._model.task
        self._is_tagging = task.kind == "tokens"
        self.tasks = {task.name: ("text",) if self._is_tagging else ("question", "context")}
        self.labels = {task.name: task.labels if self._is_tagging else ()}
        self.answers = ("words", "labels", "entities") if self._is_tagging else ("answer",)

    def parse_row(self, row: Row, uid: str) -> TokenLevelExample:
        if not self._is_tagging:
            item = example_of(row, ("question", "context"), uid)
            return Question(uid, item.fields["question"], item.fields["context"])
        if "words" not in row:
            return TaggedText(uid, tuple(example_of(row, ("text",), uid).fields["text"].split()))
        words = row["words"]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(
                "the field words is not a list of words.", 'Write {"words": ["some", "words"]}.', key="words"
            )
        for word in words:
            _check_text(word, "words")
        return TaggedText(uid, tuple(words))

    def predict(self, items: Sequence[TokenLevelExample]) -> list[dict[str, Any]]:
        predictions: list[dict[str, Any]] = []
        for item, predicted in zip(items, self._model.predict(items, NullRecorder(), ""), strict=True):
            if not isinstance(item, TaggedText):
                predictions.append({"answer": predicted})
                continue
            parts = [
                {"type": kind, "text": " ".join(item.words[first:end]), "first": first, "last": end - 1}
                for first, end, kind in sorted(entities(predicted))
            ]
            predictions.append({"words": list(item.words), "labels": list(predicted), "entities": parts})
        return predictions


def load_predictor(folders: Sequence[Path]) -> Predictor[Any]:
    """Loads the model of these folders: one classifier, one token-level prompt, or prompts for one backbone.

    Raises:
        InputError: a folder has no model that this version can read, or the prompts need different backbones.
    """
    try:
        return _load(folders)
    except (InputError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".: ")
        raise AssetError(
            f"the model in {folders[0]} is damaged, or another version of clozeline wrote it "
            f"({type(error).__name__}: {reason}).",
            "Run its recipe again, or install the version that wrote it.",
        ) from error


def _load(folders: Sequence[Path]) -> Predictor[Any]:
    if (folders[0] / CLASSIFIER).exists():
        return ClassifierPredictor(TextClassifier.load(folders[0]))
    if (folders[0] / TFIDF_FILE).exists():
        return ClassifierPredictor(TfidfClassifier.load(folders[0]))
    if (folders[0] / TOKEN_LEVEL_MODEL).exists():
        return TokenLevelPredictor(folders[0])
    for folder in folders:
        if not (folder / PROMPT_MODEL).exists():
            raise InputError(
                f"{folder} has none of {', '.join(MODEL_FILES)}.", "Specify the folder of a classifier or of a prompt."
            )
    return PromptPredictor(folders)


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
        _check_text(value, field)
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


def _check_text(value: str, field: str) -> None:
    """Raises `DataError` for half a surrogate pair: JSON and Python allow it, tokenizers do not."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the field {field!r} has half a surrogate pair at character {error.start}.",
            "Send both halves of characters above U+FFFF.",
            key=field,
        ) from None


def _probabilities(scores: NDArray[np.float64], labels: Sequence[str]) -> dict[str, Any]:
    values = {label: round(float(value), 6) for label, value in zip(labels, softmax(scores[None])[0], strict=True)}
    return {"label": max(values, key=lambda key: values[key]), "probabilities": values}
