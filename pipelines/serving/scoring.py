"""`clozeline score`: scores the rows of a file under patterns, without training, in order and in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.serving.batch_inference import blocks, fields_of
from pipelines.serving.input_rows import InputRow, InputRows
from pipelines.serving.predictors import example_of
from stages.common.errors import DataError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder


def score_rows(
    task: Task, patterns: Sequence[str], config: BackboneConfig, columns: Mapping[str, Sequence[str]], rows: InputRows
) -> Iterator[str]:
    """Yields a JSON line with the label logits of each pattern, for each input row in order.

    Raises:
        DataError: a row cannot be read, or lacks a field; names its line.
    """
    classifiers = _zero_shot_classifiers(task, patterns, config)

    def parse_row(row: InputRow) -> Any:
        try:
            if row.error is not None:
                raise row.error
            return example_of({**row.values, **fields_of(row.values, columns)}, task.fields, row.location)
        except DataError as error:
            raise DataError(error.problem, error.remedy, where=row.location) from error

    for block in blocks(map(parse_row, rows.rows)):
        logits = dict(zip(patterns, predict_patterns(classifiers, block, NullRecorder(), ""), strict=True))
        for number in range(len(block)):
            for pattern, logits_NC in logits.items():
                values = {label: float(value) for label, value in zip(task.labels, logits_NC[number], strict=True)}
                yield json.dumps({"pattern": pattern, "logits": values}, ensure_ascii=False)


def _zero_shot_classifiers(task: Task, patterns: Sequence[str], config: BackboneConfig) -> list[ClozeClassifier]:
    backbone = load_backbone(config, frozen=True)
    return [ClozeClassifier.of(task, pattern, backbone, config) for pattern in patterns]
