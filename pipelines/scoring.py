"""`clozeline score` and `clozeline predict`: labels for the lines of a file, in input order, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.errors import DataError
from stages.models.backbones import BackboneConfig
from stages.protocols import SilentRecorder
from stages.tasks import Example, Task

if TYPE_CHECKING:
    from stages.annotations.texts import Annotated

Item = TypeVar("Item")

LINES_AT_ONCE = 512
"""Lines held in memory: enough to sort by length, whatever the size of the file."""


def read_lines(lines: Iterable[str], fields: Iterable[str], name: str) -> Iterator[Example]:
    """Examples from JSON lines; a line that is not JSON is the text itself, where there is only one field.

    Raises:
        DataError: a field is missing, empty or not text; names the line.
    """
    wanted = tuple(fields)
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}, line {number}"
            yield _example(_parse(line, wanted, place), wanted, place, number)


def _example(row: Mapping[str, Any], fields: tuple[str, ...], place: str, number: int) -> Example:
    for field in fields:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise DataError(
                f"{place}: the field {field!r} is {'empty' if field in row else 'missing'}.",
                f'Write {{"{field}": "some text"}} in every line.',
            )
    return Example(str(number), {field: row[field] for field in fields})


def _parse(line: str, fields: tuple[str, ...], place: str) -> dict[str, Any]:
    if not line.lstrip().startswith("{") and len(fields) == 1:
        return {fields[0]: line.strip()}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg}).", "Write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: not a JSON object.", "Write one JSON object a line.")
    return row


def predict(model: Path, lines: Iterable[str], name: str) -> Iterator[str]:
    """A JSON line with label and probabilities for each input line, by the classifier in `model`."""
    from stages.measures.metrics import softmax
    from stages.models.classifier import TextClassifier

    classifier = TextClassifier.load(model)
    for block in _blocks(read_lines(lines, classifier.encoder.fields, name)):
        for row in softmax(classifier.predict(block, SilentRecorder(), "")):
            values = {label: round(float(value), 6) for label, value in zip(classifier.labels, row, strict=True)}
            yield json.dumps(
                {"label": max(values, key=lambda key: values[key]), "probabilities": values}, ensure_ascii=False
            )


def predict_prompts(folders: Sequence[Path], lines: Iterable[str], name: str) -> Iterator[str]:
    """A JSON line with task, label and probabilities for each input line, by the prompt of the task that it names.

    Args:
        folders: Results of prompt tuning over one backbone; where there is one only, lines need not name its task.
        lines: JSON lines with the fields of their task, and `task`.
        name: Where they come from, for errors.

    Raises:
        DataError: a line names no task, or one that has no prompt; or lacks a field.
        InputError: the prompts cannot serve together.
    """
    from stages.measures.metrics import softmax
    from stages.prompts.mixed import predict_mixed
    from stages.prompts.serving import load_prompted

    classifiers = load_prompted(folders)
    names = [item.task.name for item in classifiers]
    for block in _blocks(_asked(lines, {item.task.name: item.task.fields for item in classifiers}, name)):
        numbered = [(names.index(task), item) for task, item in block]
        for (number, _), scores in zip(numbered, predict_mixed(classifiers, numbered), strict=True):
            chances = softmax(scores[None])[0]
            labels = classifiers[number].task.labels
            values = {label: round(float(value), 6) for label, value in zip(labels, chances, strict=True)}
            label = max(values, key=lambda key: values[key])
            yield json.dumps({"task": names[number], "label": label, "probabilities": values}, ensure_ascii=False)


def annotate(folder: Path, lines: Iterable[str], name: str) -> Iterator[str]:
    """A JSON line for each input line, by a prompt for token labels ({"words", "labels", "entities"}) or answer spans
    ({"answer"}).

    Args:
        folder: Files of its step.
        lines: Token labels: JSON lines with `words` or `text`, or the text itself, whose words have spaces between
            them. Spans: JSON lines with `question` and `context`.
        name: Where they come from, for errors.

    Raises:
        DataError: a line lacks a field; names it.
    """
    from stages.annotations.measures import entities
    from stages.annotations.serving import load_annotating
    from stages.annotations.texts import TaggedText

    reading = load_annotating(folder)
    read = _tagged_texts if reading.task.kind == "tokens" else _questions
    for block in _blocks(read(lines, name)):
        for item, found in zip(block, reading.predict(block, SilentRecorder(), ""), strict=True):
            if not isinstance(item, TaggedText):
                yield json.dumps({"answer": found}, ensure_ascii=False)
                continue
            parts = [
                {"type": kind, "text": " ".join(item.words[first:end]), "first": first, "last": end - 1}
                for first, end, kind in sorted(entities(found))
            ]
            yield json.dumps({"words": item.words, "labels": found, "entities": parts}, ensure_ascii=False)


def _tagged_texts(lines: Iterable[str], name: str) -> Iterator[Annotated]:
    from stages.annotations.texts import TaggedText

    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}, line {number}"
            row = _parse(line, ("text",), place)
            words = row.get("words", str(row.get("text", "")).split())
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise DataError(f"{place}: there are no words.", 'Write {"words": ["some", "words"]} in every line.')
            yield TaggedText(str(number), tuple(words))


def _questions(lines: Iterable[str], name: str) -> Iterator[Annotated]:
    from stages.annotations.texts import Question

    for item in read_lines(lines, ("question", "context"), name):
        yield Question(item.uid, item.fields["question"], item.fields["context"])


def _asked(lines: Iterable[str], tasks: Mapping[str, tuple[str, ...]], name: str) -> Iterator[tuple[str, Example]]:
    """Task and example of each line. `tasks`: name -> fields."""
    only = next(iter(tasks)) if len(tasks) == 1 else None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        row = _parse(line, tasks[only] if only else (), place)
        task = row.get("task", only)
        if not isinstance(task, str) or task not in tasks:
            problem = "names no task" if task is None else f"names the task {task!r}, which has no prompt here"
            raise DataError(f"{place}: {problem}.", f'Write {{"task": ...}} with one of: {", ".join(tasks)}.')
        yield task, _example(row, tasks[task], place, number)


def score(
    task: Task, patterns: Iterable[str], config: BackboneConfig, lines: Iterable[str], name: str
) -> Iterator[str]:
    """JSON lines with raw label logits: for each input line, in order, one for each pattern."""
    from stages.models.backbones import load
    from stages.patterns.cloze import ClozeClassifier
    from stages.patterns.shared_text import predict_patterns

    backbone = load(config, frozen=True)
    names = list(patterns)
    classifiers = [ClozeClassifier.of(task, pattern, backbone, config) for pattern in names]
    for block in _blocks(read_lines(lines, task.fields, name)):
        logits = dict(zip(names, predict_patterns(classifiers, block, SilentRecorder(), ""), strict=True))
        for row in range(len(block)):
            for pattern, found in logits.items():
                values = {label: float(value) for label, value in zip(task.labels, found[row], strict=True)}
                yield json.dumps({"pattern": pattern, "logits": values}, ensure_ascii=False)


def accuracies(task: Task, config: BackboneConfig, examples: Sequence[Example]) -> dict[str, float]:
    """Share of labelled examples that each pattern of a task gets right without any training."""
    from stages.measures.metrics import score as compare
    from stages.models.backbones import load
    from stages.patterns.cloze import ClozeClassifier
    from stages.patterns.shared_text import predict_patterns

    backbone = load(config, frozen=True)
    classifiers = [ClozeClassifier.of(task, name, backbone, config) for name in task.patterns]
    gold = [str(item.label) for item in examples]
    found = predict_patterns(classifiers, examples, SilentRecorder(), "")
    measured = (compare(logits, gold, task.labels).accuracy for logits in found)
    return dict(zip(task.patterns, measured, strict=True))


def _blocks(examples: Iterable[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    for item in examples:
        block.append(item)
        if len(block) == LINES_AT_ONCE:
            yield block
            block = []
    if block:
        yield block
