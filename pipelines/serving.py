"""Which classifier answers: that of a recipe that was run, or one in a folder."""

from __future__ import annotations

from pathlib import Path

from cluster.plan import plan
from pipelines import fewshot, quorum, running
from pipelines.recipe import RecipeError
from stages.errors import InputError


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
    asked = running.request(recipe, overrides, store)
    steps = fewshot.steps(asked.config, quorum.dropped(asked.config, asked.store))
    students = [step for step in steps if step.name.startswith("distill/")]
    lines = {line.name: line for line in plan(students, asked.store)}
    line = lines[students[0].name]
    if line.manifest is None:
        raise RecipeError(
            f"{line.name} of {recipe} has no result in {asked.store.url}.",
            f"Run it first: clozeline run {recipe} --store {store}",
        )
    return asked.store.files(line.name, line.fingerprint) / "model"
