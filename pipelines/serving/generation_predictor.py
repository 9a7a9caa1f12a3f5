"""The predictor of a soft prompt for text generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.serving.predictors import Predictor, Row, example_of, shortened
from stages.common.protocols import NullRecorder
from stages.generation.examples import GenerationExample
from stages.generation.model import load_generator

TEXT = "generated_text"


class GenerationPredictor(Predictor[GenerationExample]):
    """A soft prompt for text generation. Reads the fields of its pattern, and returns `generated_text`."""

    kind = "texts"
    answers = (TEXT,)

    def __init__(self, folder: Path) -> None:
        self._model = load_generator(folder)
        task = self._model.task
        self.tasks = {task.name: task.fields}
        self.labels = {task.name: ()}

    def parse_row(self, row: Row, uid: str) -> GenerationExample:
        (fields,) = self.tasks.values()
        example = shortened(example_of(row, fields, uid), self._model.max_length)
        return GenerationExample(uid, dict(example.fields))

    def predict(self, items: Sequence[GenerationExample]) -> list[dict[str, Any]]:
        return [{TEXT: text} for text in self._model.generate(items, NullRecorder(), "")]
