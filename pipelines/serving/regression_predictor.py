"""The predictor of a soft prompt for regression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.serving.predictors import Predictor, Row, example_of, shortened
from stages.common.protocols import NullRecorder
from stages.regression.examples import RegressionExample
from stages.regression.model import load_regressor

VALUE = "value"


class RegressionPredictor(Predictor[RegressionExample]):
    """A soft prompt for regression. Reads the fields of its pattern, and returns `value`."""

    kind = "values"
    answers = (VALUE,)

    def __init__(self, folder: Path) -> None:
        self._model = load_regressor(folder)
        task = self._model.task
        self.tasks = {task.name: task.fields}
        self.labels = {task.name: ()}

    def parse_row(self, row: Row, uid: str) -> RegressionExample:
        (fields,) = self.tasks.values()
        example = shortened(example_of(row, fields, uid), self._model.max_length)
        return RegressionExample(uid, dict(example.fields))

    def predict(self, items: Sequence[RegressionExample]) -> list[dict[str, Any]]:
        values = self._model.predict(items, NullRecorder(), "")
        return [{VALUE: round(float(value), 6)} for value in values]
