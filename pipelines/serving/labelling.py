"""What labels texts: one shape for the classifier, soft prompts of several tasks, and prompts that annotate words and
spans.

`clozeline predict` asks it line by line, `clozeline serve` batch by batch, a model of MLflow's registry table by table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stages.errors import DataError, InputError
from stages.protocols import SilentRecorder
from stages.tasks import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.annotations.texts import Annotated

Item = TypeVar("Item")
Row = Mapping[str, Any]
TASK = "task"
"""The field that names the task, where several are served."""

CLASSIFIER, PROMPTED, ANNOTATING = "classifier.json", "prompted.json", "annotating.json"
"""The file by which the folder of each kind is known."""


class Labeller(ABC, Generic[Item]):
    """Reads rows into texts, and answers them in order.

    `tasks` names, for each task, the fields of its rows; `labels` what it may answer. The classifier's only task has
    no name.
    """

    kind: str
    tasks: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]

    @abstractmethod
    def read(self, row: Row, uid: str) -> Item:
        """A text out of a row.

        Raises:
            DataError: a field is missing, empty or not text; `key` names it.
        """

    @abstractmethod
    def answer(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """[n] answers, in the order of `items`."""

    def plain_field(self, task: str | None = None) -> str | None:
        """The field that a text without fields fills; None where there are several, or the task is in question."""
        if len(self.tasks) == 1:
            (fields,) = self.tasks.values()
        else:
            fields = self.tasks.get(task or "", ())
        return fields[0] if len(fields) == 1 else None

    def example(self) -> dict[str, str]:
        """A row that it can read. Not one of anybody's texts: models and services show it around."""
        task, fields = next(iter(self.tasks.items()))
        row = {field: f"Some {field.replace('_', ' ')}." for field in fields}
        return {TASK: task, **row} if len(self.tasks) > 1 else row


class Classifying(Labeller[Example]):
    """The distilled classifier."""

    kind = "classifier"

    def __init__(self, folder: Path) -> None:
        from stages.models.classifier import TextClassifier

        self._classifier = TextClassifier.load(folder)
        self.tasks = {"": self._classifier.fields}
        self.labels = {"": self._classifier.labels}

    def read(self, row: Row, uid: str) -> Example:
        return example_of(row, self.tasks[""], uid)

    def answer(self, items: Sequence[Example]) -> list[dict[str, Any]]:
        logits = self._classifier.predict(items, SilentRecorder(), "")
        return [_chances(scores, self._classifier.labels) for scores in logits]


class Prompting(Labeller[tuple[int, Example]]):
    """Soft prompts over one backbone: every text by the prompt of the task that its row names."""

    kind = "prompts"

    def __init__(self, folders: Sequence[Path]) -> None:
        from stages.prompts.serving import load_prompted

        self._classifiers = load_prompted(folders)
        self._names = [item.task.name for item in self._classifiers]
        self.tasks = {item.task.name: item.task.fields for item in self._classifiers}
        self.labels = {item.task.name: item.task.labels for item in self._classifiers}

    def read(self, row: Row, uid: str) -> tuple[int, Example]:
        task = row.get(TASK, self._names[0] if len(self._names) == 1 else None)
        if not isinstance(task, str) or task not in self.tasks:
            problem = "names no task" if task is None else f"names the task {task!r}, which has no prompt here"
            raise DataError(f"{problem}.", f'Write {{"task": ...}} with one of: {", ".join(self.tasks)}.', key=TASK)
        return self._names.index(task), example_of(row, self.tasks[task], uid)

    def answer(self, items: Sequence[tuple[int, Example]]) -> list[dict[str, Any]]:
        from stages.prompts.mixed import predict_mixed

        found = predict_mixed(self._classifiers, items)
        return [
            {TASK: self._names[number], **_chances(scores, self._classifiers[number].task.labels)}
            for (number, _), scores in zip(items, found, strict=True)
        ]


class Annotating(Labeller["Annotated"]):
    """A prompt for token labels ({"words", "labels", "entities"}) or answer spans ({"answer"}).

    Token labels take `words`, a list, or `text`, whose words have spaces between them; spans `question` and `context`.
    """

    kind = "annotations"

    def __init__(self, folder: Path) -> None:
        from stages.annotations.serving import load_annotating

        self._reading = load_annotating(folder)
        task = self._reading.task
        self._is_tagging = task.kind == "tokens"
        self.tasks = {task.name: ("text",) if self._is_tagging else ("question", "context")}
        self.labels = {task.name: task.labels if task.kind == "tokens" else ()}

    def read(self, row: Row, uid: str) -> Annotated:
        from stages.annotations.texts import Question, TaggedText

        if not self._is_tagging:
            item = example_of(row, ("question", "context"), uid)
            return Question(uid, item.fields["question"], item.fields["context"])
        if "words" not in row:
            return TaggedText(uid, tuple(example_of(row, ("text",), uid).fields["text"].split()))
        words = row["words"]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError("there are no words.", 'Write {"words": ["some", "words"]}.', key="words")
        for word in words:
            _check_text(word, "words")
        return TaggedText(uid, tuple(words))

    def answer(self, items: Sequence[Annotated]) -> list[dict[str, Any]]:
        from stages.annotations.measures import entities
        from stages.annotations.texts import TaggedText

        answers: list[dict[str, Any]] = []
        for item, found in zip(items, self._reading.predict(items, SilentRecorder(), ""), strict=True):
            if not isinstance(item, TaggedText):
                answers.append({"answer": found})
                continue
            parts = [
                {"type": kind, "text": " ".join(item.words[first:end]), "first": first, "last": end - 1}
                for first, end, kind in sorted(entities(found))
            ]
            answers.append({"words": list(item.words), "labels": list(found), "entities": parts})
        return answers


def load(folders: Sequence[Path]) -> Labeller[Any]:
    """What lies in these folders: one classifier, one prompt that annotates, or prompts over one backbone.

    Raises:
        InputError: nothing of the kind lies there, or the prompts cannot serve together.
    """
    if (folders[0] / CLASSIFIER).exists():
        return Classifying(folders[0])
    if (folders[0] / ANNOTATING).exists():
        return Annotating(folders[0])
    for folder in folders:
        if not (folder / PROMPTED).exists():
            names = f"{CLASSIFIER}, {PROMPTED} or {ANNOTATING}"
            raise InputError(f"{folder} holds none of {names}.", "Name the folder of a classifier or of a prompt.")
    return Prompting(folders)


def example_of(row: Row, fields: Iterable[str], uid: str) -> Example:
    """The fields of a row, as an example.

    Raises:
        DataError: one is missing, empty or not text; `key` names it.
    """
    found = {}
    for field in fields:
        value = row.get(field)
        if value is None or not isinstance(value, str) or not value.strip():
            wrong = "missing" if field not in row else "empty" if isinstance(value, str) or value is None else "no text"
            raise DataError(f"the field {field!r} is {wrong}.", f'Write {{"{field}": "some text"}}.', key=field)
        _check_text(value, field)
        found[field] = value
    return Example(uid, found)


def _check_text(value: str, field: str) -> None:
    """Half a surrogate pair is legal in JSON and in Python, and no tokenizer takes it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the field {field!r} has half a surrogate pair at character {error.start}.",
            "Send characters beyond U+FFFF whole.",
            key=field,
        ) from None


def _chances(scores: NDArray[np.float64], labels: Sequence[str]) -> dict[str, Any]:
    from stages.measures.metrics import softmax

    values = {label: round(float(value), 6) for label, value in zip(labels, softmax(scores[None])[0], strict=True)}
    return {"label": max(values, key=lambda key: values[key]), "probabilities": values}
