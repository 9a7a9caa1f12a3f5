"""Locates errors in a recipe: turns a validation error into a message with file, line, dotted key and remedy."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from stages.common.errors import AssetError, InputError


def with_key(place: str, function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls `function`, and puts `place` into its complaint."""
    try:
        return function(argument)
    except InputError as error:
        raise error.at(key=place) from error
    except json.JSONDecodeError as error:
        raise AssetError(f"not JSON ({error}).", "Fetch the file again.", key=place) from error


class RecipeError(InputError):
    """A recipe that cannot be found, read or understood."""


def with_location(error: InputError, path: Path) -> InputError:
    """Adds file and line to an error that knows only its dotted key in the recipe at `path`."""
    if error.where or not error.key:
        return error
    lines = key_lines(parse_node(path.read_text(encoding="utf-8")))
    return error.at(where=_where(path, tuple(error.key.split(".")), lines))


def parse_node(text: str) -> Any:
    """The tree of a YAML or JSON text, with lines."""
    return yaml.compose(text.replace("\t", " ") if text.lstrip().startswith("{") else text, Loader=yaml.SafeLoader)


def key_lines(node: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Dotted place -> line (from 1) of its key."""
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*prefix, str(key.value))
            found[place] = key.start_mark.line + 1
            found |= key_lines(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            place = (*prefix, str(number))
            found[place] = value.start_mark.line + 1
            found |= key_lines(value, place)
    return found


def _where(path: Path, place: Sequence[str], lines: dict[tuple[str, ...], int]) -> str:
    for length in range(len(place), 0, -1):
        if tuple(place[:length]) in lines:
            return f"{path}:{lines[tuple(place[:length])]}"
    return str(path)


def located(error: InputError, path: Path, lines: dict[tuple[str, ...], int], overridden: Sequence[str]) -> RecipeError:
    """The error of a rule, with the place of its dotted key: a line of the file, or `-o` for an override."""
    place = tuple(error.key.split("."))
    return RecipeError(error.problem, error.remedy, key=error.key, where=_source(place, path, lines, overridden))


def _source(place: Sequence[str], path: Path, lines: dict[tuple[str, ...], int], overridden: Sequence[str]) -> str:
    key = ".".join(place)
    from_option = any(f"{key}.".startswith(f"{item}.") or f"{item}.".startswith(f"{key}.") for item in overridden)
    return "-o" if from_option else _where(path, place, lines)


def recipe_error(
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
    where = _source(place, path, lines, overridden)
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
