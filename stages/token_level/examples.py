"""Reads and writes examples of token-level tasks: tagged texts, and questions with answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common.data.config import Source
from stages.common.data.sources import column, filtered_rows
from stages.common.errors import DataError
from stages.common.examples import Row
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask, TokenLevelTaskConfig


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A text as words, with the label of each word. Without labels if they are not known."""

    uid: str
    """Unique in its set."""
    words: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the index of its first character in the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context."""

    uid: str
    """Unique in its set."""
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    """Gold answers. Empty if the context has no answer, or if it is not known."""


TokenLevelExample = TaggedText | Question


def fields_of(task: TokenLevelTaskConfig) -> tuple[str, ...]:
    """Returns the fields that the source of a task must have."""
    return ("words",) if task.kind == "tokens" else ("question", "context")


def read_examples(source: Source, task: TokenLevelTaskConfig, prefix: str = "") -> list[TokenLevelExample]:
    """Reads every example of a source, in file order.

    Args:
        source: The file. Token classification: `fields: {words: COLUMN}` with a list of words, `label` with a list of
            labels. Question answering: `fields: {question: COLUMN, context: COLUMN}`, and `label` with {"text": [...],
            "answer_start": [...]}, as in SQuAD.
        task: The task.
        prefix: Start of the uids.

    Raises:
        DataError: a row does not have this form, or a label is unknown; names file and line.
    """
    examples: list[TokenLevelExample] = []
    for number, row in enumerate(filtered_rows(source)):
        if source.limit is not None and len(examples) >= source.limit:
            break
        uid = f"{prefix}{number}"
        examples.append(_tagged(uid, row, source, task) if task.kind == "tokens" else _question(uid, row, source, task))
    if not examples:
        raise DataError(f"{source.asset} has no example.", "Check filter: and limit:, or use another file.")
    return examples


def _tagged(uid: str, row: Row, source: Source, task: TokenClassificationTask) -> TaggedText:
    location, values = row
    assert source.label is not None
    words = _list(column(values, source.fields["words"], location), source.fields["words"], location)
    labels = _list(column(values, source.label, location), source.label, location)
    labels = tuple(source.label_map.get(label, label) for label in labels)
    if not words:
        raise DataError(f"{location}: the text has no words.", "Add words, or remove the row.")
    if len(words) != len(labels):
        raise DataError(f"{location}: {len(words)} words, but {len(labels)} labels.", "Give each word one label.")
    unknown = [label for label in labels if label not in task.labels]
    if unknown:
        raise DataError(
            f"{location}: the label {unknown[0]!r} is not in labels {list(task.labels)}.",
            f"Add it to labels, or map it to a label (label_map: {{{unknown[0]!r}: ...}}).",
        )
    return TaggedText(uid, words, labels)


def _question(uid: str, row: Row, source: Source, task: QuestionAnsweringTask) -> Question:
    location, values = row
    assert source.label is not None
    question, context = (column(values, source.fields[name], location) for name in ("question", "context"))
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{location}: the {name} is empty or not a text.", "Fix it, or remove the row.")
    answers = _answers(column(values, source.label, location), source.label, location)
    for answer in answers:
        if context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise DataError(
                f"{location}: the answer {answer.text!r} is not at character {answer.start} of the context.",
                "Fix answer_start, which counts characters from 0.",
            )
    if not answers and not task.unanswerable:
        raise DataError(f"{location}: the question has no answer.", "Add one, or set unanswerable: true.")
    return Question(uid, question, context, answers)


def _answers(value: Any, name: str, location: str) -> tuple[Answer, ...]:
    if isinstance(value, Mapping) and set(value) >= {"text", "answer_start"}:
        texts, starts = (list(value[key]) for key in ("text", "answer_start"))
        are_texts = len(texts) == len(starts) and all(isinstance(text, str) and text for text in texts)
        if are_texts and all(isinstance(start, int) and start >= 0 for start in map(_plain, starts)):
            return tuple(Answer(text, int(start)) for text, start in zip(texts, starts, strict=True))
    raise DataError(
        f"{location}: {name!r} has no answers.", 'Use {"text": ["Paris"], "answer_start": [17]}, as in SQuAD.'
    )


def _plain(value: Any) -> Any:
    """Converts numpy values, which parquet files have, to Python values."""
    return value.item() if hasattr(value, "item") else value


def _list(value: Any, name: str, location: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(
            f"{location}: {name!r} is {type(value).__name__}, not a list.",
            'Use a list with one item per word: ["one", "word"].',
        )
    items = tuple(map(_plain, value))
    if not all(isinstance(item, str | int) for item in items):
        raise DataError(f"{location}: {name!r} has items that are not texts.", "Put every item in quotes.")
    return tuple(map(str, items))


def write_examples(path: Path, examples: Sequence[TokenLevelExample]) -> None:
    """Writes one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def load_tagged(path: Path) -> list[TaggedText]:
    """Reads tagged texts that `write_examples` wrote."""
    return [TaggedText(row["uid"], tuple(row["words"]), tuple(row["labels"])) for row in _rows(path)]


def load_questions(path: Path) -> list[Question]:
    """Reads questions that `write_examples` wrote."""
    return [
        Question(row["uid"], row["question"], row["context"], tuple(Answer(**answer) for answer in row["answers"]))
        for row in _rows(path)
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
