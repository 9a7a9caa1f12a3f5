"""Locates errors in a recipe: turns a validation error into a message with file, line, dotted key and remedy."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.schema.recipe_text import parse_node
from stages.common.errors import AssetError, InputError


class RecipeError(InputError):
    """A recipe cannot be found, read or validated."""


@contextmanager
def errors_located_in(place: Path | str) -> Iterator[None]:
    """Adds a location to every `InputError` that is raised inside the block.

    Args:
        place: A recipe file, to add file and line of the error's key; or the dotted key of a section, to which the key
            of the error is relative.

    Raises:
        InputError: the error of the block with its location. For a section, JSON that cannot be parsed becomes an
            `AssetError`.
    """
    try:
        yield
    except InputError as error:
        if isinstance(place, Path):
            raise _with_line(error, place) from error
        key = ".".join(part for part in (place, error.key) if part)
        raise type(error)(error.problem, error.remedy, key=key, where=error.where) from error
    except json.JSONDecodeError as error:
        if isinstance(place, Path):
            raise
        raise AssetError(f"not JSON ({error}).", "Download the file again.", key=place) from error


def _with_line(error: InputError, path: Path) -> InputError:
    if error.where or not error.key:
        return error
    lines = key_lines(parse_node(path.read_text(encoding="utf-8")))
    return error.at(where=_where(path, tuple(error.key.split(".")), lines))


def key_lines(node: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Dotted key as a tuple -> its line, counted from 1."""
    lines: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        items = [(str(key.value), key, value) for key, value in node.value]
    else:
        sequence = node.value if isinstance(node, yaml.SequenceNode) else ()
        items = [(str(number), value, value) for number, value in enumerate(sequence)]
    for name, marked, value in items:
        lines[*prefix, name] = marked.start_mark.line + 1
        lines |= key_lines(value, (*prefix, name))
    return lines


def _where(path: Path, place: Sequence[str], lines: dict[tuple[str, ...], int]) -> str:
    for length in range(len(place), 0, -1):
        if tuple(place[:length]) in lines:
            return f"{path}:{lines[tuple(place[:length])]}"
    return str(path)


def located(error: InputError, path: Path, lines: dict[tuple[str, ...], int], overridden: Sequence[str]) -> RecipeError:
    """Returns an error with the location of its dotted key: a line of the file, or `-o` for an override."""
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
    """Returns the first error of pydantic as an error with location and remedy."""
    # A misspelled required key causes two errors. The unknown key is the more helpful one.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    place, parents = _place(first["loc"], model)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError) and inner.key:  # relative to the validated section
        place = (*place, *inner.key.split("."))
    key = ".".join(place)
    where = _source(place, path, lines, overridden)
    if isinstance(inner, InputError):
        return RecipeError(inner.problem, inner.remedy, key=key, where=where)
    if first["type"] == "extra_forbidden":
        known = [name for parent in parents for name in parent.model_fields]
        close = difflib.get_close_matches(place[-1], known, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
        return RecipeError(f"unknown key {place[-1]!r}.", remedy, key=key, where=where)
    if first["type"] == "missing":
        return RecipeError(
            "the key is missing.", f"Add {place[-1]}: {_describe(parents, place[-1])}", key=key, where=where
        )
    message = first["msg"][0].lower() + first["msg"][1:]
    remedy = _describe(parents, place[-1])
    if first["type"] == "string_type" and isinstance(first["input"], bool | int | float):
        remedy = "Put it in quotes: YAML reads numbers, and words such as yes and no, as other types than text."
    return RecipeError(f"{message}, not {first['input']!r}.", remedy, key=key, where=where)


_MEMBER = re.compile(r"(list|dict|tuple|literal|function-\w+)\[|\[key\]$")
"""Names that pydantic adds to a location for members of a union and for keys of a mapping."""


def _place(loc: Sequence[Any], model: type[BaseModel]) -> tuple[tuple[str, ...], list[type[BaseModel]]]:
    """Returns the dotted key without the names that pydantic adds, and the models that may have its last part.

    Names that pydantic adds are such as `dict[str,str]`, or the name of a validator.
    """
    place: list[str] = []
    kinds: list[Any] = [model]
    parents: list[Any] = []
    for item in loc:
        children = [child for kind in kinds for child in _children(kind, str(item))]
        if isinstance(item, str) and place and (_MEMBER.match(item) or not (children or _is_extra(kinds))):
            continue
        if not children and (tagged := [kind for kind in kinds if _is_tagged(kind, item)]):
            kinds = tagged  # the member of a union that `kind` selects
            continue
        place.append(str(item))
        parents, kinds = kinds, children
    return tuple(place), [kind for kind in parents if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _is_tagged(kind: Any, tag: Any) -> bool:
    """Returns True if values with `kind: tag` are validated by this model."""
    field = kind.model_fields.get("kind") if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return (
        field is not None
        and typing.get_origin(field.annotation) is Literal
        and tag in typing.get_args(field.annotation)
    )


def _is_extra(kinds: Sequence[Any]) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _children(kind: Any, name: str) -> list[Any]:
    """Returns the possible types of the value with key `name` in a value of type `kind`."""
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


def _describe(models: Sequence[type[BaseModel]], name: str) -> str:
    for model in models:
        if name in model.model_fields:
            text = model.model_fields[name].description or ""
            return f"Expected: {' '.join(text.split()).removesuffix('.')}."
    return "See the recipes that are part of clozeline."
