"""Finds the model for `predict` and `serve`: the classifier or prompts of a recipe that was run, or a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.steps.plan import Plan
from cluster.steps.step import Step
from cluster.store.manifest import Manifest
from pipelines.dag.fewshot import plan_recipe
from pipelines.kinds import KINDS
from pipelines.run import runner
from pipelines.run.request import RunRequest, load_request
from pipelines.schema.config import field_columns
from pipelines.schema.locations import RecipeError
from pipelines.serving.loading import MAX_LOADED_PROMPTS, MODEL_FILES, PROMPT_MODEL, load_predictor
from pipelines.serving.predictors import Predictor
from stages.common.data.step_outputs import read_logits
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.problems import Problem, problem_of

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Files of the test set of a classifier: the examples, and its logits for them."""

    examples: Path
    logits: Path
    problem: Problem

    def load(self) -> tuple[list[str], list[float]]:
        """Returns the texts, and the confidence in the predicted labels."""
        texts = [" ".join(item.fields.values()) for item in load_examples(self.examples)]
        probabilities = self.problem.probabilities(read_logits(self.logits, self.problem.labels).logits)
        return texts, self.problem.confidence(probabilities).tolist()


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The folders of a model that is not loaded yet, the origin of each, and where a recipe reads its fields.

    `columns`: task -> field -> columns of the files of the recipe. The only task of a classifier has an empty name.
    `test_set`: the test set of a classifier of a recipe; None for other models, or if its files were removed.
    """

    folders: tuple[Path, ...]
    origins: tuple[Mapping[str, str], ...]
    columns: Mapping[str, Mapping[str, tuple[str, ...]]]
    test_set: EvaluationFiles | None = None

    def load(self, max_loaded_prompts: int = MAX_LOADED_PROMPTS) -> Predictor[Any]:
        """Loads the model; downloads its backbone if needed."""
        return load_predictor(self.folders, max_loaded_prompts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """Which model of a recipe to use. Without a choice, it is the classifier that the report selected.

    Args:
        row: Row of the leaderboard of another classifier.
        prompts: Method of `prompts.methods` whose prompts to use, one per task.
    """

    row: str | None = None
    prompts: str | None = None


def find_model(recipe: str, overrides: list[str] | None, store: str | Path, choice: ModelChoice) -> ModelSource:
    """Finds a model without loading it. Of several seeds, the first is used.

    Args:
        recipe: Name or file of a recipe, or the folder of a classifier or prompt.
        overrides: The overrides of the run that trained it.
        store: The store of that run.
        choice: Which of its models.

    Raises:
        InputError: the model does not exist, or the recipe has not been run with this store.
    """
    if choice.row is not None and choice.prompts is not None:
        raise InputError("--row selects a classifier, and --prompts selects prompts.", "Remove one of them.")
    test_set: EvaluationFiles | None = None
    if Path(recipe).is_dir():
        if choice.row is not None:
            raise InputError(f"--row is for a recipe, but {recipe} is a folder.", "Remove --row.")
        folders, columns = [model_folder(Path(recipe))], {}
    else:
        request = load_request(recipe, overrides, store)
        planned = plan_results(request)
        if choice.prompts is not None:
            folders = _prompt_folders(request, planned, choice.prompts)
            columns = {
                name: field_columns(data, task.fields) for name, (task, data, _) in request.config.datasets.items()
            }
        else:
            step = classifier_step(request, planned, choice.row)
            folders = [step_files(request, planned, step) / "model"]
            columns = {"": field_columns(request.config.data, request.config.task.fields)}
            test_set = _test_set(request, planned, folders[0].parent)
    return ModelSource(tuple(folders), tuple(map(_origin, folders)), columns, test_set)


def _test_set(request: RunRequest, planned: Plan, files: Path) -> EvaluationFiles | None:
    """Returns the test set of a classifier, whose step wrote `files`."""
    data, logits = planned.steps[f"data/{request.config.task.name}"], files / "test_logits.jsonl"
    if data.name not in planned.manifests or not logits.exists():
        return None
    task = request.config.task
    problem = problem_of(task.labels, task.problem_type)
    return EvaluationFiles(step_files(request, planned, data) / "test.jsonl", logits, problem)


def plan_results(request: RunRequest) -> Plan:
    """Returns the plan of a recipe with its results in the store, without members that failed."""
    planned = plan_recipe(request.config, request.store)
    if dropped := runner.dropped_members(request.config, planned, planned.manifests, request.store):
        planned = plan_recipe(request.config, request.store, dropped=dropped)
    return planned


def classifier_step(request: RunRequest, planned: Plan, row: str | None) -> Step:
    """Returns the step of the classifier in a row of the leaderboard; None: in the row that the report selected.

    Raises:
        InputError: the report has no result, or the recipe has no such classifier.
    """
    if row is None:
        report = planned.manifests.get("report")
        if report is None:
            raise _no_result(request, "report")
        row = str(report.result["delivered"]["row"])
    by_row: dict[str, Step] = {}
    for step in planned.steps.values():
        if KINDS[step.kind].is_classifier:
            by_row.setdefault(step.labels["row"], step)
    if row not in by_row:
        raise InputError(
            f"{request.recipe} has no classifier {row!r}.", f"Use one of: {', '.join(by_row)}.", key="--row"
        )
    return by_row[row]


def model_folder(folder: Path) -> Path:
    """Returns the folder of a model, given this folder or the folder of its step.

    Raises:
        InputError: the folder has no model.
    """
    manifest = folder / "manifest.json"
    files = folder / Manifest.from_json(manifest.read_bytes()).folder if manifest.exists() else folder
    for path in (folder, folder / "model", files, files / "model"):
        if any((path / name).exists() for name in MODEL_FILES):
            return path
    names = ", ".join(MODEL_FILES)
    raise InputError(f"{folder} has no model ({names}).", "Specify the folder of a step distill/... or prompts/...")


def _prompt_folders(request: RunRequest, planned: Plan, method: str) -> list[Path]:
    section = request.config.prompts
    if section is None or method not in section.methods:
        known = ", ".join(section.methods) if section else "none"
        raise InputError(f"{request.recipe} has no prompt method {method!r}.", f"Use one of: {known}.")
    by_task: dict[str, Path] = {}
    for step in planned.steps.values():
        if step.kind == "prompts" and step.labels["method"] == method:
            files = step_files(request, planned, step)
            if (files / PROMPT_MODEL).exists():
                by_task.setdefault(step.labels["task"], files)
    if not by_task:
        raise InputError(
            f"the prompts of {request.recipe} are for tasks that are not classification, served one at a time.",
            "Specify the folder of a step: store/prompts/<task>/<method>/<seed>/<fingerprint>.",
        )
    return list(by_task.values())


def step_files(request: RunRequest, planned: Plan, step: Step) -> Path:
    """Returns the folder with the files of a step.

    Raises:
        InputError: the step has no result.
    """
    manifest = planned.manifests.get(step.name)
    if manifest is None:
        raise _no_result(request, step.name)
    return request.store.files(step.name, manifest.fingerprint)


def _no_result(request: RunRequest, step: str) -> RecipeError:
    return RecipeError(
        f"{step} of {request.recipe} has no result in {request.store.url}.",
        f"Run it first: clozeline run {request.recipe} --store {request.store.url}.",
    )


def _origin(folder: Path) -> dict[str, str]:
    """Returns step and fingerprint of a result in the store; for any other folder, its name."""
    origin = {}
    for path in (folder.absolute(), *folder.absolute().parents[:3]):
        if _FINGERPRINT.fullmatch(path.name):
            origin["fingerprint"] = path.name
            with suppress(OSError, ValueError, KeyError):  # a cached copy of a remote result has no manifest
                origin["step"] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["step"]
    return origin or {"folder": folder.name}
