"""The predictor of soft prompts: several tasks and versions over one backbone, mixed in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.serving.damage import damage_located_in
from pipelines.serving.predictors import TASK, Predictor, Row, example_of, made_up_row, shortened
from pipelines.serving.prompt_versions import PromptCache, PromptVersion, serving_config
from pipelines.serving.served_tasks import DEFAULT, SEPARATOR, ServedTasks
from stages.common.errors import DataError, InputError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.cloze.multi_task import predict_multi_task

VERSION = "version"
"""The value of a prediction that names the version of the prompt, if versions can change."""


@dataclass(frozen=True, slots=True)
class PromptItem:
    """An example, and the prompt that predicts it even if the version of its task changes while it waits."""

    version: PromptVersion
    example: Example


@dataclass(frozen=True, slots=True)
class VersionTable:
    """The prompts of `served`: task -> version -> prompt."""

    served: ServedTasks
    versions: Mapping[str, Mapping[str, PromptVersion]]

    def find(self, name: str) -> PromptVersion | None:
        """Returns the prompt of `TASK`, `TASK@VERSION` or `TASK@ALIAS`; None if there is none."""
        task, _, reference = name.partition(SEPARATOR)
        if task not in self.versions or (SEPARATOR in name and not reference):
            return None
        aliases = self.served.tasks[task].aliases
        return self.versions[task].get(aliases.get(reference or DEFAULT, reference))

    def __iter__(self) -> Iterator[PromptVersion]:
        return (version for versions in self.versions.values() for version in versions.values())


class PromptPredictor(Predictor[PromptItem]):
    """Soft prompts for one backbone. A row names its task, which selects the prompt.

    `prepare` and `predict` use the model, and belong into one thread; the other methods belong into the thread of the
    requests.
    """

    kind = "prompts"
    answers = (TASK, "label", "probabilities")

    def __init__(self, folders: Sequence[Path], max_loaded: int) -> None:
        """
        Args:
            folders: Folders of prompts for one backbone, one per task.
            max_loaded: Prompts in memory.

        Raises:
            InputError: the prompts have different backbones, two have the same task, or one of several has LoRA
                weights, which change the backbone for all.
        """
        names = [serving_config(folder).task.name for folder in folders]
        if len(set(names)) < len(names):
            raise InputError(f"two prompts have the same task: {', '.join(names)}.", "Specify one prompt per task.")
        self.names_versions = False
        """If True, predictions name the versions of their prompts."""
        self._cache = PromptCache(folders[0], max_loaded)
        served = ServedTasks.of_folders({name: str(folder) for name, folder in zip(names, folders, strict=True)})
        self._table = VersionTable(served, {})
        self.install(self.prepare(served))

    @property
    def table(self) -> VersionTable:
        """Returns the prompts that are served."""
        return self._table

    @property
    def num_loaded(self) -> int:
        """Returns the number of prompts in memory."""
        return self._cache.num_loaded

    def prepare(self, served: ServedTasks) -> VersionTable:
        """Loads what is new and predicts an example with it, so that a prompt that does not work is an error now.

        Raises:
            InputError: a prompt is broken, or has another backbone.
        """
        versions: dict[str, dict[str, PromptVersion]] = {}
        for task, entry in served.tasks.items():
            known = self._table.versions.get(task, {})
            versions[task] = {}
            for name, folder in entry.versions.items():
                version = known.get(name)
                if version is None or version.folder != Path(folder):
                    with damage_located_in(Path(folder)):
                        version = self._cache.version(task, name, Path(folder))
                        example = example_of(made_up_row(version.fields), version.fields, "0")
                        self.predict([PromptItem(version, example)])
                versions[task][name] = version
        return VersionTable(served, versions)

    def install(self, table: VersionTable) -> None:
        """Serves these prompts from now on. Items that were parsed before keep theirs."""
        self._table = table
        defaults = {task: table.versions[task][entry.aliases[DEFAULT]] for task, entry in table.served.tasks.items()}
        self.tasks = {task: version.fields for task, version in defaults.items()}
        self.labels = {task: version.labels for task, version in defaults.items()}

    def forget_others(self) -> None:
        """Drops prompts that are no longer served from memory. Call it in the thread of the model."""
        self._cache.keep_only(self._table)

    def has_task(self, task: str) -> bool:
        return self._table.find(task) is not None

    def plain_field(self, task: str | None = None) -> str | None:
        version = None if task is None else self._table.find(task)
        if version is None:
            return super().plain_field(task)
        return version.fields[0] if len(version.fields) == 1 else None

    def parse_row(self, row: Row, uid: str) -> PromptItem:
        task = row.get(TASK, next(iter(self.tasks)) if len(self.tasks) == 1 else None)
        version = self._table.find(task) if isinstance(task, str) else None
        if version is None:
            problem = "the field task is missing" if task is None else f"the task {task!r} has no prompt here"
            raise DataError(f"{problem}.", f'Set "task" to one of {", ".join(self.tasks)}.', key=TASK)
        return PromptItem(version, shortened(example_of(row, version.fields, uid), version.max_length))

    def task_of(self, item: PromptItem) -> str:
        return item.version.task

    def predict(self, items: Sequence[PromptItem]) -> list[dict[str, Any]]:
        versions = list(dict.fromkeys(item.version for item in items))
        predictions: dict[int, dict[str, Any]] = {}
        for start in range(0, len(versions), self._cache.capacity):
            numbers = {version: number for number, version in enumerate(versions[start : start + self._cache.capacity])}
            rows = [row for row, item in enumerate(items) if item.version in numbers]
            logits = predict_multi_task(
                [self._cache.get(version) for version in numbers],
                [(numbers[items[row].version], items[row].example) for row in rows],
            )
            for row, scores in zip(rows, logits, strict=True):
                predictions[row] = self._prediction(items[row].version, scores)
        return [predictions[row] for row in range(len(items))]

    def _prediction(self, version: PromptVersion, scores: NDArray[np.float64]) -> dict[str, Any]:
        name = {VERSION: version.name} if self.names_versions else {}
        return {TASK: version.task, **name, **_probabilities(scores, version.labels)}


def _probabilities(scores: NDArray[np.float64], labels: Sequence[str]) -> dict[str, Any]:
    values = {label: round(float(value), 6) for label, value in zip(labels, softmax(scores[None])[0], strict=True)}
    return {"label": max(values, key=lambda key: values[key]), "probabilities": values}
