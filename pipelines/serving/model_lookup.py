"""Finds the model for `predict` and `serve`: the student or the prompts of a recipe that was run, or a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.steps.step import Step
from pipelines.dag import quorum
from pipelines.dag.planner import plan_recipe
from pipelines.run.request import load_request
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
    """Finds a model without loading it.

    Args:
        recipe: Name or file of a recipe, or the folder of a classifier or prompt.
        overrides: The overrides of the run that trained it.
        store: The store of that run.
        method: Method of `prompts.methods` whose prompts to use; None: the student.

    Raises:
        InputError: the model does not exist, or the recipe has not been run with this store.
    """
    for place in (Path(recipe), Path(recipe) / "files"):
        if any((place / name).exists() for name in (predictors.TOKEN_LEVEL_MODEL, predictors.PROMPT_MODEL)):
            return _model_source([place])
    if method:
        return _model_source(find_prompts(recipe, overrides, store, method))
    return _model_source([find_classifier(recipe, overrides, store)])


def _model_source(folders: Sequence[Path]) -> ModelSource:
    return ModelSource(tuple(folders), tuple(map(_origin, folders)))


def _origin(folder: Path) -> dict[str, str]:
    """Returns step and fingerprint of a result in the store; for any other folder, its name."""
    origin = {}
    for place in (folder.absolute(), *folder.absolute().parents[:2]):
        if _FINGERPRINT.fullmatch(place.name):
            origin["fingerprint"] = place.name
            with suppress(OSError, ValueError, KeyError):  # a cached copy of a remote result has no manifest
                origin["step"] = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["step"]
    return origin or {"folder": folder.name}


def find_classifier(recipe: str, overrides: list[str] | None, store: str | Path) -> Path:
    """Returns the folder of a classifier: of a recipe, the student of the first seed.

    Args:
        recipe: Name or file of a recipe, or a folder with a classifier.
        overrides: The overrides of the run that trained it.
        store: The store of that run.

    Raises:
        InputError: the folder has no classifier, or the recipe has not been run with this store.
    """
    folder = Path(recipe)
    if folder.is_dir():
        for place in (folder, folder / "model", folder / "files" / "model"):
            if (place / "classifier.json").exists():
                return place
        raise InputError(f"{folder} has no classifier.json.", "Specify the folder `model` of a distill step.")
    return _results(recipe, overrides, store, "distill")[0][1] / "model"


def find_prompts(recipe: str, overrides: list[str] | None, store: str | Path, method: str) -> list[Path]:
    """Returns the folders of the prompts of a method: one per task, of the first seed.

    Args:
        recipe: Name or file of a recipe.
        overrides: The overrides of the run that trained them.
        store: The store of that run.
        method: Name of the method in `prompts.methods`.

    Raises:
        InputError: the recipe has no such method, or has not been run with this store.
    """
    if Path(recipe).is_dir():
        raise InputError(f"{recipe} has no prompt_model.json.", "Specify the folder of a step prompts/...")
    section = load_request(recipe, overrides, store).config.prompts
    if section is None or method not in section.methods:
        known = ", ".join(section.methods) if section else "none"
        raise InputError(f"{recipe} has no prompt method {method!r}.", f"Use one of: {known}.")
    by_task: dict[str, Path] = {}
    for step, files in _results(recipe, overrides, store, "prompts"):
        if step.labels["method"] == method and (files / predictors.PROMPT_MODEL).exists():
            by_task.setdefault(step.labels["task"], files)
    if not by_task:
        raise InputError(
            f"the prompts of {recipe} are for token-level tasks, which are served one at a time.",
            "Specify the folder of a step: store/prompts/<task>/<method>/<seed>/<fingerprint>.",
        )
    return list(by_task.values())


def _results(recipe: str, overrides: list[str] | None, store: str | Path, kind: str) -> list[tuple[Step, Path]]:
    """Returns all steps of a kind with the folders of their files, in the order of the recipe."""
    request = load_request(recipe, overrides, store)
    planned = plan_recipe(request.config, request.store)
    if dropped := quorum.dropped_members(request.config, planned, planned.manifests, request.store):
        planned = plan_recipe(request.config, request.store, dropped=dropped)
    results = []
    for item in planned:
        if item.step.kind != kind:
            continue
        if item.manifest is None:
            raise RecipeError(
                f"{item.name} of {recipe} has no result in {request.store.url}.",
                f"Run it first: clozeline run {recipe} --store {store}.",
            )
        results.append((item.step, request.store.files(item.name, item.fingerprint)))
    return results
