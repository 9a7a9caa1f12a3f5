"""`clozeline score` and `clozeline predict`: labels the lines of a file, in input order, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from pipelines.serving.predictors import Predictor, example_of
from stages.common.errors import DataError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder

Item = TypeVar("Item")
LINES_AT_ONCE = 512
"""Lines kept in memory: enough to sort them by length."""


def read_lines(
    lines: Iterable[str], name: str, plain_field: str | None, parse_row: Callable[[Mapping[str, Any], str], Item]
) -> Iterator[Item]:
    """Yields an item per line that is not blank. Its uid is the number of its line.

    Args:
        lines: JSON lines. If `plain_field` is set, a line that does not start with { is the text of that field.
        name: The source of the lines, for errors.
        plain_field: The only field of a row; None if a row has several.
        parse_row: Makes an item from a row and a uid.

    Raises:
        DataError: a field is missing, empty or not text; names the line.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse_row(_row(line, plain_field), str(number))
            except DataError as error:
                where = error.where or f"{name}, line {number}"
                raise DataError(error.problem, error.remedy, where=where) from error


def _row(line: str, plain_field: str | None) -> dict[str, Any]:
    if plain_field is not None and not line.lstrip().startswith("{"):
        return {plain_field: line.strip()}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg}).", "Write one JSON object per line.") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object.", "Write one JSON object per line.")
    return row


def predict_lines(predictor: Predictor[Any], lines: Iterable[str], name: str) -> Iterator[str]:
    """Yields a JSON line with the prediction for each input line.

    Args:
        predictor: The model.
        lines: JSON lines with the fields of the model, or plain text if the model has a single field.
        name: The source of the lines, for errors.

    Raises:
        DataError: a line lacks a field or names an unknown task; names the line.
    """
    for block in _blocks(read_lines(lines, name, predictor.plain_field(), predictor.parse_row)):
        for prediction in predictor.predict(block):
            yield json.dumps(prediction, ensure_ascii=False)


def score_lines(
    task: Task, patterns: Sequence[str], config: BackboneConfig, lines: Iterable[str], name: str
) -> Iterator[str]:
    """Yields a JSON line with the label logits of each pattern, for each input line in order."""
    classifiers = _zero_shot_classifiers(task, patterns, config)
    fields = task.fields
    plain_field = fields[0] if len(fields) == 1 else None
    for block in _blocks(read_lines(lines, name, plain_field, lambda row, uid: example_of(row, fields, uid))):
        logits = dict(zip(patterns, predict_patterns(classifiers, block, NullRecorder(), ""), strict=True))
        for row in range(len(block)):
            for pattern, logits_NC in logits.items():
                values = {label: float(value) for label, value in zip(task.labels, logits_NC[row], strict=True)}
                yield json.dumps({"pattern": pattern, "logits": values}, ensure_ascii=False)


def _zero_shot_classifiers(task: Task, patterns: Sequence[str], config: BackboneConfig) -> list[ClozeClassifier]:
    backbone = load_backbone(config, frozen=True)
    return [ClozeClassifier.of(task, pattern, backbone, config) for pattern in patterns]


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while block := list(islice(iterator, LINES_AT_ONCE)):
        yield block
