"""Reading recipes: YAML or JSON in, dotted overrides on top, every complaint with file, line, key and remedy."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from stages.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(InputError):
    """A recipe that cannot be found, read or understood."""


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with clozeline; those in a folder are called `folder/name`."""
    names = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in RECIPES.rglob("*.yaml")}
    return dict(sorted(names.items(), key=lambda item: ("/" in item[0], item[0])))


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with clozeline.

    A shipped recipe in a folder has two names: the full one (`paper/rte`), and its last part (`rte`) if that is unique.

    Raises:
        RecipeError: there is neither, or several have this last part.
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
        raise RecipeError(f"several recipes are called {name!r}.", f"Name one in full: {', '.join(same_stem)}.")
    full_names = {full.rpartition("/")[2]: full for full in shipped} | {full: full for full in shipped}
    close = difflib.get_close_matches(name, full_names, n=1)
    raise RecipeError(
        f"there is no recipe {name!r}.",
        f"Did you mean {full_names[close[0]]!r}?" if close else f"Name a YAML file, or one of: {', '.join(shipped)}.",
    )


def read_recipe(path: Path, model: type[Model], overrides: Sequence[str] = (), *, ignore_others: bool = False) -> Model:
    """Reads a recipe.

    Args:
        path: YAML or JSON file.
        model: What it must be.
        overrides: `section.key=value`, values in YAML.
        ignore_others: Pass over top-level keys that `model` does not have.

    Raises:
        RecipeError: not YAML, an unknown key, a value out of range; the first such place, with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = _node(text)
        values = _unshared(_values(text))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"it cannot be read ({error}).", "Name a readable YAML file.", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", error))
        raise RecipeError(f"not YAML: {problem}.", "Mend the indentation or the quotes there.", where=where) from error
    if not isinstance(values, dict):
        raise RecipeError("the recipe is not a mapping.", "Start with a line such as: name: my_task", where=str(path))
    _refuse_repeated_keys(node, path)
    lines = _lines(node)
    changed = [_override(values, item, model) for item in overrides]
    if ignore_others:
        values = {key: value for key, value in values.items() if key in model.model_fields}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _complaint(error, model, path, lines, changed) from None


def locate(error: InputError, path: Path) -> InputError:
    """Adds file and line to an error that knows only its dotted key in the recipe at `path`."""
    if error.where or not error.key:
        return error
    lines = _lines(_node(path.read_text(encoding="utf-8")))
    return error.at(where=_where(path, tuple(error.key.split(".")), lines))


def _values(text: str) -> Any:
    """What a YAML or JSON text says. YAML of old mistakes JSON's tabs, pairs of \\u escapes and numbers like 1e-5."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a YAML mapping on one line
    return yaml.safe_load(text)


def _node(text: str) -> Any:
    """The tree of a YAML or JSON text, with lines."""
    return yaml.compose(text.replace("\t", " ") if text.lstrip().startswith("{") else text, Loader=yaml.SafeLoader)


def _refuse_repeated_keys(node: Any, path: Path, place: tuple[str, ...] = ()) -> None:
    """YAML keeps the last of two equal keys and says nothing; here nothing is ignored in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*place, str(key.value))
            if key.value in seen:
                raise RecipeError(
                    f"the key {key.value!r} stands here a second time.", "Keep one of them.",
                    key=".".join(inner), where=f"{path}:{key.start_mark.line + 1}",
                )  # fmt: skip
            seen.add(str(key.value))
            _refuse_repeated_keys(value, path, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _refuse_repeated_keys(value, path, (*place, str(number)))


def _unshared(value: Any) -> Any:
    """A copy in which YAML's aliases are values of their own, so that an override of one leaves the others alone."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _lines(node: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Dotted place -> line (from 1) of its key."""
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*prefix, str(key.value))
            found[place] = key.start_mark.line + 1
            found |= _lines(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            place = (*prefix, str(number))
            found[place] = value.start_mark.line + 1
            found |= _lines(value, place)
    return found


def _where(path: Path, place: Sequence[str], lines: dict[tuple[str, ...], int]) -> str:
    for length in range(len(place), 0, -1):
        if tuple(place[:length]) in lines:
            return f"{path}:{lines[tuple(place[:length])]}"
    return str(path)


def _override(values: dict[str, Any], item: str, model: type[BaseModel]) -> str:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise RecipeError(f"-o {item} is not an override.", "Write -o section.key=value.")
    *parents, last = key.split(".")
    try:
        value = yaml.safe_load(text)
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
            raise RecipeError(
                f"-o {item}: {parent!r} is a single value.", f"Leave out what follows {parent!r}.", key=key
            )
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            raise RecipeError(f"-o {item}: the list has {len(target)} entries.", "Count from 0.", key=key)
        target[int(last)] = value
    else:
        target[last] = value
    return key


def _complaint(
    error: ValidationError,
    model: type[BaseModel],
    path: Path,
    lines: dict[tuple[str, ...], int],
    overridden: Sequence[str],
) -> RecipeError:
    """The first complaint of pydantic, in our words."""
    # a misspelt key is missing, too: its name says more
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    place = _place(first["loc"], model)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError) and inner.key:  # relative to the place of the validator
        place = (*place, *inner.key.split("."))
    key = ".".join(place)
    from_option = any(f"{key}.".startswith(f"{item}.") or f"{item}.".startswith(f"{key}.") for item in overridden)
    where = "-o" if from_option else _where(path, place, lines)
    if isinstance(inner, InputError):
        return RecipeError(inner.problem, inner.remedy, key=key, where=where)
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, place[:-1])
        close = difflib.get_close_matches(place[-1], known, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
        return RecipeError(f"unknown key {place[-1]!r}.", remedy, key=key, where=where)
    if first["type"] == "missing":
        return RecipeError("the key is missing.", f"Add {place[-1]}: {_describe(model, place)}", key=key, where=where)
    if first["type"] == "value_error":
        problem, _, remedy = str(inner).partition(". ")
        return RecipeError(problem.rstrip(".") + ".", remedy or _describe(model, place), key=key, where=where)
    message = first["msg"][0].lower() + first["msg"][1:]
    remedy = _describe(model, place)
    if first["type"] == "string_type" and isinstance(first["input"], bool | int | float):
        remedy = "Put it in quotes: YAML takes words such as yes and no, and numbers, for something else than text."
    return RecipeError(f"{message}, not {first['input']!r}.", remedy, key=key, where=where)


_MEMBER = re.compile(r"(list|dict|tuple|literal|function-\w+)\[|\[key\]$")
"""What pydantic calls the members of a union, and the key of a mapping."""


def _place(loc: Sequence[Any], model: type[BaseModel]) -> tuple[str, ...]:
    """The dotted place without what pydantic adds for members of unions, such as `dict[str,str]` or a validator's
    name.
    """
    place: list[str] = []
    kinds: list[Any] = [model]
    for item in loc:
        steps = [found for kind in kinds for found in _children(kind, str(item))]
        if isinstance(item, str) and place and (_MEMBER.match(item) or not (steps or _is_extra(kinds))):
            continue
        if not steps and (tagged := [kind for kind in kinds if _is_tagged(kind, item)]):
            kinds = tagged  # the member of a union that `kind` names
            continue
        place.append(str(item))
        kinds = steps
    return tuple(place)


def _is_tagged(kind: Any, tag: Any) -> bool:
    """Whether a value with `kind: tag` is a model of this kind."""
    field = kind.model_fields.get("kind") if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return (
        field is not None
        and typing.get_origin(field.annotation) is Literal
        and tag in typing.get_args(field.annotation)
    )


def _is_extra(kinds: Sequence[Any]) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _children(kind: Any, name: str) -> list[Any]:
    """The types that stand under `name` in a value of type `kind`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(name)
        return _members(field.annotation) if field else []
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return _members(arguments[1])
    if origin in (list, tuple) and name.isdigit():
        return _members(arguments[0])
    return []


def _members(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for item in typing.get_args(annotation) for member in _members(item)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return [annotation]


def _models_at(model: type[BaseModel], place: Sequence[str]) -> list[Any]:
    kinds: list[Any] = [model]
    for name in place:
        kinds = [found for kind in kinds for found in _children(kind, name)]
    return kinds


def _keys_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    kinds = [kind for kind in _models_at(model, place) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [name for kind in kinds for name in kind.model_fields]


def _describe(model: type[BaseModel], place: Sequence[str]) -> str:
    for kind in _models_at(model, place[:-1]):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and place[-1] in kind.model_fields:
            text = kind.model_fields[place[-1]].description or ""
            return f"What belongs here: {text.removesuffix('.')}."
    return "See the recipes that come with clozeline."
