"""Finds the model for `predict` and `serve`: the student or the prompts of a recipe that was run, or a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.steps.step import Step
from pipelines.dag.fewshot import plan_recipe
from pipelines.run import runner
from pipelines.run.request import RunRequest, load_request
from pipelines.schema.locations import RecipeError
from pipelines.serving import predictors
from stages.common.errors import InputError

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The folders of a model that is not loaded yet, and the origin of each."""

    folders: tuple[Path, ...]
    origins: tuple[Mapping[str, str], ...]

    def load(self) -> predictors.Predictor[Any]:
        """Loads the model; downloads its backbone if needed."""
        return predictors.load_predictor(self.folders)


def find_model(recipe: str, overrides: list[str] | None, store: str | Path, method: str | None) -> ModelSource:
    """Finds a model without loading it. Of several seeds, the first is used.

    Args:
        recipe: Name or file of a recipe, or the folder of a classifier or prompt.
        overrides: The overrides of the run that trained it.
        store: The store of that run.
        method: Method of `prompts.methods` whose prompts to use, one per task; None: the student.

    Raises:
        InputError: the model does not exist, or the recipe has not been run with this store.
    """
    if Path(recipe).is_dir():
        folders = [_model_folder(Path(recipe))]
    elif method is None:
        folders = [_results(load_request(recipe, overrides, store), "distill")[0][1] / "model"]
    else:
        folders = _prompt_folders(load_request(recipe, overrides, store), method)
    return ModelSource(tuple(folders), tuple(map(_origin, folders)))


def _model_folder(folder: Path) -> Path:
    """Returns the folder of a model, given this folder or the folder of its step."""
    for path in (folder, folder / "model", folder / "files", folder / "files" / "model"):
        if any((path / name).exists() for name in predictors.MODEL_FILES):
            return path
    names = ", ".join(predictors.MODEL_FILES)
    raise InputError(f"{folder} has no model ({names}).", "Specify the folder of a step distill/... or prompts/...")


def _prompt_folders(request: RunRequest, method: str) -> list[Path]:
    section = request.config.prompts
    if section is None or method not in section.methods:
        known = ", ".join(section.methods) if section else "none"
        raise InputError(f"{request.recipe} has no prompt method {method!r}.", f"Use one of: {known}.")
    by_task: dict[str, Path] = {}
    for step, files in _results(request, "prompts"):
        if step.labels["method"] == method and (files / predictors.PROMPT_MODEL).exists():
            by_task.setdefault(step.labels["task"], files)
    if not by_task:
        raise InputError(
            f"the prompts of {request.recipe} are for token-level tasks, which are served one at a time.",
            "Specify the folder of a step: store/prompts/<task>/<method>/<seed>/<fingerprint>.",
        )
    return list(by_task.values())


def _results(request: RunRequest, kind: str) -> list[tuple[Step, Path]]:
    """Returns all steps of a kind with the folders of their files, in the order of the recipe."""
    planned = plan_recipe(request.config, request.store)
    if dropped := runner.dropped_members(request.config, planned, planned.manifests, request.store):
        planned = plan_recipe(request.config, request.store, dropped=dropped)
    results = []
    for item in planned:
        if item.step.kind != kind:
            continue
        if item.manifest is None:
            raise RecipeError(
                f"{item.name} of {request.recipe} has no result in {request.store.url}.",
                f"Run it first: clozeline run {request.recipe} --store {request.store.url}.",
            )
        results.append((item.step, request.store.files(item.name, item.fingerprint)))
    return results


def _origin(folder: Path) -> dict[str, str]:
    """Returns step and fingerprint of a result in the store; for any other folder, its name."""
    origin = {}
    for path in (folder.absolute(), *folder.absolute().parents[:2]):
        if _FINGERPRINT.fullmatch(path.name):
            origin["fingerprint"] = path.name
            with suppress(OSError, ValueError, KeyError):  # a cached copy of a remote result has no manifest
                origin["step"] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["step"]
    return origin or {"folder": folder.name}
