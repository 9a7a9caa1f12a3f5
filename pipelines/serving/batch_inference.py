"""`clozeline score` and `clozeline predict`: labels the lines of a file, in input order, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipelines.serving.predictors import Predictor, example_of
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.metrics.classification import score as compare
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder

Item = TypeVar("Item")
LINES_AT_ONCE = 512
"""Lines held in memory: enough to sort by length, whatever the size of the file."""


def read_lines(lines: Iterable[str], fields: Iterable[str], name: str) -> Iterator[Example]:
    """Examples from JSON lines; a line that is not JSON is the text itself, where there is only one field.

    Raises:
        DataError: a field is missing, empty or not text; names the line.
    """
    wanted = tuple(fields)
    plain = wanted[0] if len(wanted) == 1 else None
    return _read(lines, name, plain, lambda row, uid: example_of(row, wanted, uid))


def _read(
    lines: Iterable[str], name: str, plain: str | None, reader: Callable[[Mapping[str, Any], str], Item]
) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield reader(_parse(line, plain, place), str(number))
            except DataError as error:
                raise error if error.where else DataError(error.problem, error.remedy, where=place) from error


def _parse(line: str, plain: str | None, place: str) -> dict[str, Any]:
    if plain is not None and not line.lstrip().startswith("{"):
        return {plain: line.strip()}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg}).", "Write one JSON object a line.", where=place) from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object.", "Write one JSON object a line.", where=place)
    return row


def predict_lines(predictor: Predictor[Any], lines: Iterable[str], name: str) -> Iterator[str]:
    """A JSON line with the answer for each input line.

    Args:
        predictor: What answers.
        lines: JSON lines with the fields that it reads; or plain text, where that is a single one.
        name: Where they come from, for errors.

    Raises:
        DataError: a line lacks a field, or names no task that is known here; names the line.
    """
    for block in _blocks(_read(lines, name, predictor.plain_field(), predictor.parse_row)):
        for answer in predictor.predict(block):
            yield json.dumps(answer, ensure_ascii=False)


def score_lines(
    task: Task, patterns: Iterable[str], config: BackboneConfig, lines: Iterable[str], name: str
) -> Iterator[str]:
    """JSON lines with raw label logits: for each input line, in order, one for each pattern."""

    backbone = load_backbone(config, frozen=True)
    names = list(patterns)
    classifiers = [ClozeClassifier.of(task, pattern, backbone, config) for pattern in names]
    for block in _blocks(read_lines(lines, task.fields, name)):
        logits = dict(zip(names, predict_patterns(classifiers, block, NullRecorder(), ""), strict=True))
        for row in range(len(block)):
            for pattern, found in logits.items():
                values = {label: float(value) for label, value in zip(task.labels, found[row], strict=True)}
                yield json.dumps({"pattern": pattern, "logits": values}, ensure_ascii=False)


def pattern_accuracies(task: Task, config: BackboneConfig, examples: Sequence[Example]) -> dict[str, float]:
    """Share of labelled examples that each pattern of a task gets right without any training."""

    backbone = load_backbone(config, frozen=True)
    classifiers = [ClozeClassifier.of(task, name, backbone, config) for name in task.patterns]
    gold = [str(item.label) for item in examples]
    found = predict_patterns(classifiers, examples, NullRecorder(), "")
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
