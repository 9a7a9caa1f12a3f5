"""Canonical JSON: exactly one text per value, or an error.

No value is converted with `str()`, because two different values could then have the same text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from cluster.errors import FingerprintError

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]


def canonical(value: Any) -> str:
    """Returns the value as JSON with sorted keys and no spaces."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any, location: str = "value", *, identity: bool = False) -> Plain:
    """Converts a value to None, bool, int, float, str, list and dict.

    Args:
        value: One of these, an Enum, a pydantic model, a dataclass, a tuple, a set, or a mapping with text keys.
        location: Dotted name of the value, for the error.
        identity: Leave out fields of pydantic models that are marked with `json_schema_extra={"identity": False}`.

    Raises:
        FingerprintError: the value has no canonical form.
    """
    if isinstance(value, Enum):
        return plain(value.value, location, identity=identity)
    if value is None or type(value) in (bool, int, str):
        unchanged: bool | int | str | None = value
        return unchanged
    if type(value) is float:
        if not math.isfinite(value):
            raise FingerprintError(f"{location} is {value}, which JSON cannot represent.", "Use None instead.")
        # -0.0 == 0.0, so both must have the same text.
        return value + 0.0
    if type(value) in (list, tuple):
        return [plain(item, f"{location}.{index}", identity=identity) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, location, identity=identity) for item in value), key=canonical)
    if isinstance(value, Mapping):
        return _mapping(value, location, identity)
    return _record(value, location, identity)


def flatten(value: Plain, prefix: str = "") -> dict[str, Plain]:
    """Returns nested dicts and lists as one dict with dotted keys. Empty ones stay unchanged.

    >>> flatten({"loop": {"steps": 3}, "words": ["a"]}, "config")
    {'config.loop.steps': 3, 'config.words.0': 'a'}
    """
    items: dict[str, Any]
    if isinstance(value, dict) and value:
        items = value
    elif isinstance(value, list) and value:
        items = {str(index): item for index, item in enumerate(value)}
    else:
        return {prefix: value}
    flat: dict[str, Plain] = {}
    for key, item in items.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def _mapping(value: Mapping[Any, Any], location: str, identity: bool) -> dict[str, Any]:
    for key in value:
        if type(key) is not str:
            raise FingerprintError(
                f"{location} has the key {key!r} of type {type(key).__name__}; JSON keys must be text.",
                "Use text keys, or a list of small models.",
            )
    return {key: plain(item, f"{location}.{key}", identity=identity) for key, item in value.items()}


def _record(value: Any, location: str, identity: bool) -> dict[str, Any]:
    """Converts a pydantic model or a dataclass to a dict of its fields."""
    kind = type(value)
    model_fields = getattr(kind, "__pydantic_fields__", None)
    if model_fields is not None:
        names = [
            name
            for name, field in model_fields.items()
            if not (identity and (_extra(field.json_schema_extra).get("identity") is False))
        ]
        return _mapping({name: getattr(value, name) for name in names} | (value.model_extra or {}), location, identity)
    if is_dataclass(value) and not isinstance(value, type):
        return _mapping({item.name: getattr(value, item.name) for item in fields(value)}, location, identity)
    if isinstance(value, PurePath):
        raise FingerprintError(
            f"{location} is a path, which does not identify the content of the file.",
            "Put the digest of the file into the step's assets, and mark the field with "
            'Field(json_schema_extra={"identity": False}).',
        )
    raise FingerprintError(
        f"{location} is a {kind.__module__}.{kind.__qualname__}, which has no canonical form.",
        "Use a pydantic model, a dataclass, an Enum, or plain numbers and text.",
    )


def _extra(extra: Any) -> Mapping[str, Any]:
    return extra if isinstance(extra, Mapping) else {}
