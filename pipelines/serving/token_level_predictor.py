"""The predictor of a soft prompt for token classification or question answering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.serving.predictors import Predictor, Row, check_text, example_of
from stages.common.errors import DataError
from stages.common.protocols import NullRecorder
from stages.token_level.examples import Question, TaggedText, TokenLevelExample
from stages.token_level.heads import load_token_level_model
from stages.token_level.metrics import entities


class TokenLevelPredictor(Predictor[TokenLevelExample]):
    """A soft prompt for token classification or question answering.

    Token classification reads `words` (a list) or `text` (split at spaces), and returns `words`, `labels` and
    `entities`. Question answering reads `question` and `context`, and returns `answer`.
    """

    kind = "annotations"

    def __init__(self, folder: Path) -> None:
        self._model = load_token_level_model(folder)
        task = self._model.task
        self._is_tagging = task.kind == "tokens"
        self.tasks = {task.name: ("text",) if self._is_tagging else ("question", "context")}
        self.labels = {task.name: task.labels if self._is_tagging else ()}
        self.answers = ("words", "labels", "entities") if self._is_tagging else ("answer",)

    def parse_row(self, row: Row, uid: str) -> TokenLevelExample:
        if not self._is_tagging:
            item = example_of(row, ("question", "context"), uid)
            return Question(uid, item.fields["question"], item.fields["context"])
        if "words" not in row:
            return TaggedText(uid, tuple(example_of(row, ("text",), uid).fields["text"].split()))
        words = row["words"]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(
                "the field words is not a list of words.", 'Write {"words": ["some", "words"]}.', key="words"
            )
        for word in words:
            check_text(word, "words")
        return TaggedText(uid, tuple(words))

    def predict(self, items: Sequence[TokenLevelExample]) -> list[dict[str, Any]]:
        predictions: list[dict[str, Any]] = []
        for item, predicted in zip(items, self._model.predict(items, NullRecorder(), ""), strict=True):
            if not isinstance(item, TaggedText):
                predictions.append({"answer": predicted})
                continue
            parts = [
                {"type": kind, "text": " ".join(item.words[first:end]), "first": first, "last": end - 1}
                for first, end, kind in sorted(entities(predicted))
            ]
            predictions.append({"words": list(item.words), "labels": list(predicted), "entities": parts})
        return predictions
