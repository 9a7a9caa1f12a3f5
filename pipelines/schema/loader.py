"""Finds and reads recipes: YAML or JSON, with dotted overrides applied on top."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.schema.config import PipelineConfig, ScoreRecipe
from pipelines.schema.locations import RecipeError, key_lines, located, recipe_error
from pipelines.schema.recipe_text import check_values, parse_node, parse_values
from pipelines.schema.relative_paths import with_absolute_paths
from pipelines.schema.renamed_keys import check_renamed_keys
from pipelines.schema.rules import check_rules
from pipelines.schema.task_rules import check_score_task
from stages.common.errors import InputError

Model = TypeVar("Model", bound=BaseModel)
RECIPES = Path(__file__).parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that is part of clozeline. Recipes in a folder are called `folder/name`."""
    names = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in RECIPES.rglob("*.yaml")}
    return dict(sorted(names.items(), key=lambda item: ("/" in item[0], item[0])))


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe, from its path or from the name of a recipe that is part of clozeline.

    A shipped recipe in a folder has two names: the full one (`paper/rte`), and its last part (`rte`) if that is unique.

    Raises:
        RecipeError: there is no such recipe, or several have this last part.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    same_stem = [full for full in shipped if full.rpartition("/")[2] == name]
    if len(same_stem) == 1:
        return shipped[same_stem[0]]
    path = Path(name)
    if path.is_file():
        return path
    if same_stem:
        raise RecipeError(f"several recipes are called {name!r}.", f"Use the full name: {', '.join(same_stem)}.")
    full_names = {full.rpartition("/")[2]: full for full in shipped} | {full: full for full in shipped}
    close = difflib.get_close_matches(name, full_names, n=1)
    raise RecipeError(
        f"there is no recipe {name!r}.",
        f"Did you mean {full_names[close[0]]!r}?" if close else f"Use a YAML file, or one of: {', '.join(shipped)}.",
    )


def read_recipe(path: Path, model: type[Model], overrides: Sequence[str] = (), *, ignore_others: bool = False) -> Model:
    """Reads a recipe.

    Args:
        path: YAML or JSON file.
        model: The model that validates it.
        overrides: `section.key=value`, values in YAML.
        ignore_others: Ignores top-level keys that `model` does not have.

    Returns:
        The recipe. Paths in the file are relative to its folder, and paths in overrides to the current one.

    Raises:
        RecipeError: the first problem with its line, such as invalid YAML, an unknown key or a value out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = parse_node(text)
        values = _unshared(parse_values(text))
    except InputError as error:
        raise RecipeError(error.problem, error.remedy, where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"it cannot be read ({error}).", "Use a readable YAML file.", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
        raise RecipeError(f"not YAML: {problem}.", "Fix the indentation or the quotes there.", where=where) from error
    if not isinstance(values, dict):
        raise RecipeError("the recipe is not a mapping.", "Start with a line such as: name: my_task", where=str(path))
    _check_repeated_keys(node, path)
    lines = key_lines(node)
    changed = [_override(values, item, model) for item in overrides]
    if ignore_others:
        values = {key: value for key, value in values.items() if key in model.model_fields}
    try:
        check_values(values)
        check_renamed_keys(values)
        config = model.model_validate(values)
        if isinstance(config, PipelineConfig):
            check_rules(config)
        elif isinstance(config, ScoreRecipe):
            check_score_task(config)
    except ValidationError as error:
        raise recipe_error(error, model, path, lines, changed) from None
    except InputError as error:
        raise located(error, path, lines, changed) from None
    return with_absolute_paths(config, path.absolute().parent, changed)


def load_config(values: dict[str, Any]) -> PipelineConfig:
    """Builds a recipe from a mapping and checks all of its rules.

    Raises:
        ValidationError, InputError: a section is invalid, or a rule is broken.
    """
    config = PipelineConfig.model_validate(values)
    check_rules(config)
    return config


def _check_repeated_keys(node: Any, path: Path, place: tuple[str, ...] = ()) -> None:
    """Raises an error for a repeated key, of which YAML would keep the last one without a warning."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*place, str(key.value))
            if key.value in seen:
                raise RecipeError(
                    f"the key {key.value!r} is repeated.", "Keep one of them.",
                    key=".".join(inner), where=f"{path}:{key.start_mark.line + 1}",
                )  # fmt: skip
            seen.add(str(key.value))
            _check_repeated_keys(value, path, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _check_repeated_keys(value, path, (*place, str(number)))


def _unshared(value: Any) -> Any:
    """Copies values, so that an override of one YAML alias does not change the others."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], item: str, model: type[BaseModel]) -> str:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise RecipeError(f"-o {item} is not an override.", "Write -o section.key=value.")
    *parents, last = key.split(".")
    try:
        value = parse_values(text)
    except InputError as error:
        raise RecipeError(error.problem, error.remedy, key=key, where=f"-o {item}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is not YAML.", "Put the value in quotes.", key=key, where=f"-o {item}") from error
    target: Any = values
    for parent in parents:
        if isinstance(target, dict):
            target = target.setdefault(parent, {})
        elif isinstance(target, list) and parent.isdigit() and int(parent) < len(target):
            target = target[int(parent)]
        elif isinstance(target, list):
            raise RecipeError(f"-o {item}: the list has {len(target)} entries.", "Count from 0.", key=key)
        if not isinstance(target, dict | list):
            raise RecipeError(f"-o {item}: {parent!r} is a single value.", f"Remove what follows {parent!r}.", key=key)
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            raise RecipeError(f"-o {item}: the list has {len(target)} entries.", "Count from 0.", key=key)
        target[int(last)] = value
    else:
        target[last] = value
    return key
