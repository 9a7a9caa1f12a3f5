"""Examples of token-level tasks: tagged texts and questions with answers, how they are read and written."""

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
    """A text in words, and the label of each; none where they are unknown. `uid` is unique in its set."""

    uid: str
    words: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the place of its first character in the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the context in which its answer stands, and answers that people gave; none: there is no answer."""

    uid: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()


TokenLevelExample = TaggedText | Question


def fields_of(task: TokenLevelTaskConfig) -> tuple[str, ...]:
    """The fields that the source of a task must have."""
    return ("words",) if task.kind == "tokens" else ("question", "context")


def read_examples(source: Source, task: TokenLevelTaskConfig, prefix: str = "") -> list[TokenLevelExample]:
    """Every text of a source, in file order.

    Args:
        source: The file. Token labels: `fields: {words: COLUMN}` with a list of words, `label` with a list of labels.
            Spans: `fields: {question: COLUMN, context: COLUMN}`, and `label` with {"text": [...], "answer_start":
            [...]}, as SQuAD has it.
        task: What is asked of the texts.
        prefix: Start of the `uid`s.

    Raises:
        DataError: a row does not have this form, or a label is unknown; names file and line.
    """
    found: list[TokenLevelExample] = []
    for number, row in enumerate(filtered_rows(source)):
        if source.limit is not None and len(found) >= source.limit:
            break
        uid = f"{prefix}{number}"
        found.append(_tagged(uid, row, source, task) if task.kind == "tokens" else _question(uid, row, source, task))
    if not found:
        raise DataError(f"{source.asset} holds no text.", "Check keep: and limit:, or name another file.")
    return found


def _tagged(uid: str, row: Row, source: Source, task: TokenClassificationTask) -> TaggedText:
    place, values = row
    assert source.label is not None
    words = _list(column(values, source.fields["words"], place), source.fields["words"], place)
    labels = _list(column(values, source.label, place), source.label, place)
    labels = tuple(source.label_map.get(label, label) for label in labels)
    if not words:
        raise DataError(f"{place}: the text has no words.", "Fill them in, or leave the row out.")
    if len(words) != len(labels):
        raise DataError(f"{place}: {len(words)} words, but {len(labels)} labels.", "Give every word one label.")
    unknown = [label for label in labels if label not in task.labels]
    if unknown:
        raise DataError(
            f"{place}: the label {unknown[0]!r} is not in labels {list(task.labels)}.",
            f"Add it to labels, or translate it (label_names: {{{unknown[0]!r}: ...}}).",
        )
    return TaggedText(uid, words, labels)


def _question(uid: str, row: Row, source: Source, task: QuestionAnsweringTask) -> Question:
    place, values = row
    assert source.label is not None
    question, context = (column(values, source.fields[name], place) for name in ("question", "context"))
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: the {name} is no text, or empty.", "Fill it in, or leave the row out.")
    answers = _answers(column(values, source.label, place), source.label, place)
    for answer in answers:
        if context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise DataError(
                f"{place}: the answer {answer.text!r} does not stand at character {answer.start} of the context.",
                "Correct answer_start, which counts characters from 0.",
            )
    if not answers and not task.unanswerable:
        raise DataError(f"{place}: the question has no answer.", "Fill one in, or set unanswerable: true.")
    return Question(uid, question, context, answers)


def _answers(value: Any, name: str, location: str) -> tuple[Answer, ...]:
    if isinstance(value, Mapping) and set(value) >= {"text", "answer_start"}:
        texts, starts = (list(value[key]) for key in ("text", "answer_start"))
        whole = len(texts) == len(starts) and all(isinstance(text, str) and text for text in texts)
        if whole and all(isinstance(start, int) and start >= 0 for start in map(_plain, starts)):
            return tuple(Answer(text, int(start)) for text, start in zip(texts, starts, strict=True))
    raise DataError(
        f"{location}: {name!r} holds no answers.", 'Write {"text": ["Paris"], "answer_start": [17]}, as SQuAD does.'
    )


def _plain(value: Any) -> Any:
    """Numbers of parquet files are numpy's."""
    return value.item() if hasattr(value, "item") else value


def _list(value: Any, name: str, location: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(
            f"{location}: {name!r} is {type(value).__name__}, not a list.", 'Write ["one", "item", "a word"].'
        )
    items = tuple(map(_plain, value))
    if not all(isinstance(item, str | int) for item in items):
        raise DataError(f"{location}: {name!r} holds something else than texts.", "Put every item in quotes.")
    return tuple(map(str, items))


def write_examples(path: Path, texts: Sequence[TokenLevelExample]) -> None:
    """Writes one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(asdict(text), ensure_ascii=False) + "\n")


def load_tagged(path: Path) -> list[TaggedText]:
    """Texts with labels of words, as `write` wrote them."""
    return [TaggedText(row["uid"], tuple(row["words"]), tuple(row["labels"])) for row in _rows(path)]


def load_questions(path: Path) -> list[Question]:
    """Questions, as `write` wrote them."""
    return [
        Question(row["uid"], row["question"], row["context"], tuple(Answer(**answer) for answer in row["answers"]))
        for row in _rows(path)
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
