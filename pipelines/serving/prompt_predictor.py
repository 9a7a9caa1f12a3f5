"""The predictor of soft prompts: several tasks over one backbone, mixed in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.serving.predictors import TASK, Predictor, Row, example_of, shortened
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.cloze.multi_task import predict_multi_task
from stages.common.prompts.loader import load_prompts


class PromptPredictor(Predictor[tuple[int, Example]]):
    """Soft prompts for one backbone. A row names its task, which selects the prompt."""

    kind = "prompts"
    answers = (TASK, "label", "probabilities")

    def __init__(self, folders: Sequence[Path]) -> None:
        self._classifiers = load_prompts(folders)
        self._names = [item.task.name for item in self._classifiers]
        self.tasks = {item.task.name: item.task.fields for item in self._classifiers}
        self.labels = {item.task.name: item.task.labels for item in self._classifiers}

    def parse_row(self, row: Row, uid: str) -> tuple[int, Example]:
        task = row.get(TASK, self._names[0] if len(self._names) == 1 else None)
        if not isinstance(task, str) or task not in self.tasks:
            problem = "the field task is missing" if task is None else f"the task {task!r} has no prompt here"
            raise DataError(f"{problem}.", f'Set "task" to one of {", ".join(self.tasks)}.', key=TASK)
        number = self._names.index(task)
        example = example_of(row, self.tasks[task], uid)
        return number, shortened(example, self._classifiers[number].encoder.max_length)

    def predict(self, items: Sequence[tuple[int, Example]]) -> list[dict[str, Any]]:
        logits = predict_multi_task(self._classifiers, items)
        return [
            {TASK: self._names[number], **_probabilities(scores, self._classifiers[number].task.labels)}
            for (number, _), scores in zip(items, logits, strict=True)
        ]


def _probabilities(scores: NDArray[np.float64], labels: Sequence[str]) -> dict[str, Any]:
    values = {label: round(float(value), 6) for label, value in zip(labels, softmax(scores[None])[0], strict=True)}
    return {"label": max(values, key=lambda key: values[key]), "probabilities": values}
