"""Finds the model to predict with: the classifier or prompts of a recipe that was run, or a folder that holds one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.dag import quorum
from pipelines.dag.planner import plan_recipe
from pipelines.run.request import load_request
from pipelines.schema.locations import RecipeError
from pipelines.serving import predictors
from stages.common.errors import InputError

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What answers, not loaded yet: folders of models, and where each comes from."""

    folders: tuple[Path, ...]
    origins: tuple[Mapping[str, str], ...]

    def load(self) -> predictors.Predictor[Any]:
        """Takes seconds: the model is read, and its backbone fetched if need be."""
        return predictors.load_predictor(self.folders)


def find_model(recipe: str, overrides: list[str] | None, store: str | Path, method: str | None) -> ModelSource:
    """What answers lines and requests.

    Args:
        recipe: A recipe's name or file; or a folder with a classifier, or that of a prompt's step.
        overrides: As in the run that trained it.
        store: The store of that run.
        method: Name of a method in `prompts.methods`, to answer with its prompts; None: with the classifier.

    Raises:
        InputError: there is nothing of the kind, or the recipe has not been run in this store.
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
    """Where a result of the store comes from: its manifest says the step, its path the fingerprint; of any other folder
    the name.
    """
    found = {}
    for place in (folder.absolute(), *folder.absolute().parents[:2]):
        if _FINGERPRINT.fullmatch(place.name):
            found["fingerprint"] = place.name
            with suppress(OSError, ValueError, KeyError):  # a cached copy of a remote result has no manifest beside it
                found["step"] = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["step"]
    return found or {"folder": folder.name}


def find_classifier(recipe: str, overrides: list[str] | None, store: str | Path) -> Path:
    """The folder of the classifier to predict with. Of several students the first seed's answers.

    Args:
        recipe: A recipe's name or file, or a folder that holds a classifier.
        overrides: As in the run that trained it.
        store: The store of that run.

    Raises:
        InputError: the recipe has not been run in this store.
    """
    folder = Path(recipe)
    if folder.is_dir():
        for place in (folder, folder / "model", folder / "files" / "model"):
            if (place / "classifier.json").exists():
                return place
        raise InputError(f"{folder} holds no classifier.json.", "Name the folder `model` of a distill step.")
    students = _results(recipe, overrides, store, "distill/")
    return next(iter(students.values())) / "model"


def find_prompts(recipe: str, overrides: list[str] | None, store: str | Path, method: str) -> list[Path]:
    """The folders of the prompts to label texts with: one a task, of the first seed.

    Args:
        recipe: A recipe's name or file.
        overrides: As in the run that trained them.
        store: The store of that run.
        method: Name of the method in `prompts.methods`.

    Raises:
        InputError: the recipe has no such method, or has not been run in this store.
    """
    if Path(recipe).is_dir():
        raise InputError(f"{recipe} holds no prompt_model.json.", "Name the folder of a step prompts/...")
    section = load_request(recipe, overrides, store).config.prompts
    if section is None or method not in section.methods:
        known = ", ".join(section.methods) if section else "none"
        raise InputError(f"{recipe} has no prompts by the method {method!r}.", f"Its methods: {known}.")
    found = _results(recipe, overrides, store, "prompts/")
    chosen: dict[str, Path] = {}
    for name, files in found.items():
        _, task, *rest = name.split("/")
        if rest and rest[0] == method and (files / "prompt_model.json").exists():
            chosen.setdefault(task, files)
    if not chosen:
        raise InputError(
            f"the prompts of {recipe} are for token labels and spans, which are served one by one.",
            "Name the folder of a step: store/prompts/<task>/<method>/<seed>/<fingerprint>.",
        )
    return list(chosen.values())


def _results(recipe: str, overrides: list[str] | None, store: str | Path, prefix: str) -> dict[str, Path]:
    """Step -> its files, of all steps whose names start with `prefix`, in the recipe's order."""
    asked = load_request(recipe, overrides, store)
    planned = plan_recipe(asked.config, asked.store)
    if dropped := quorum.dropped_members(asked.config, planned, planned.manifests, asked.store):
        planned = plan_recipe(asked.config, asked.store, dropped=dropped)
    found = {}
    for line in planned:
        if not line.name.startswith(prefix):
            continue
        if line.manifest is None:
            raise RecipeError(
                f"{line.name} of {recipe} has no result in {asked.store.url}.",
                f"Run it first: clozeline run {recipe} --store {store}",
            )
        found[line.name] = asked.store.files(line.name, line.fingerprint)
    return found
