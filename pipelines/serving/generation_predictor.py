"""The predictor of a soft prompt for text generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.serving.predictors import Predictor, Row, example_of, shortened
from pipelines.serving.streamed_text import StreamedText
from stages.common.protocols import NullRecorder
from stages.generation.examples import GenerationExample
from stages.generation.model import load_generator
from stages.generation.streaming import CanceledError

TEXT = "generated_text"


class GenerationPredictor(Predictor[GenerationExample | StreamedText]):
    """A soft prompt for text generation. Reads the fields of its pattern, and returns `generated_text`."""

    kind = "texts"
    answers = (TEXT,)

    def __init__(self, folder: Path) -> None:
        self._model = load_generator(folder)
        task = self._model.task
        self.tasks = {task.name: task.fields}
        self.labels = {task.name: ()}

    @property
    def can_stream(self) -> bool:
        """True if a text can be sent while it is written. With beams, its beginning is not known before its end."""
        return self._model.decoding.width == 1

    def parse_row(self, row: Row, uid: str) -> GenerationExample:
        (fields,) = self.tasks.values()
        example = shortened(example_of(row, fields, uid), self._model.max_length)
        return GenerationExample(uid, dict(example.fields))

    def predict(self, items: Sequence[GenerationExample | StreamedText]) -> list[dict[str, Any]]:
        plain = [item for item in items if not isinstance(item, StreamedText)]
        texts = iter(self._model.generate(plain, NullRecorder(), ""))
        return [self._stream(item) if isinstance(item, StreamedText) else {TEXT: next(texts)} for item in items]

    def _stream(self, text: StreamedText) -> dict[str, Any]:
        if text.outcome is None:
            try:
                text.outcome = {TEXT: self._model.stream(text.item, text.emit, text.canceled.is_set)}
            except CanceledError:
                text.outcome = {TEXT: ""}
            except Exception as error:  # the batch is then predicted text by text, but parts are sent once
                text.outcome = error
        if isinstance(text.outcome, Exception):
            raise text.outcome
        return text.outcome
