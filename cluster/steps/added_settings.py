"""Recognizes settings that another version of the code has added, and that no one has set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def is_added_default(name: str, before: Mapping[str, Any], config: BaseModel) -> bool:
    """Returns True if an old key lacks a setting, which now has its default value.

    The setting was added to the code then: a recipe that had changed would set it to another value.

    Args:
        name: Component of the new key, such as `config.training.steps`.
        before: Components of the old key.
        config: Config of the new key.
    """
    root, *parts = name.split(".")
    owner: Any = config
    path = root
    for part in parts if root == "config" else ():
        path = f"{path}.{part}"
        if path in before:
            return False
        is_new = not any(other.startswith(f"{path}.") for other in before)
        if isinstance(owner, BaseModel) and part in type(owner).model_fields:
            value = getattr(owner, part)
            if is_new:
                field = type(owner).model_fields[part]
                return not field.is_required() and bool(value == field.get_default(call_default_factory=True))
        elif is_new:
            return False
        elif isinstance(owner, Mapping) and part in owner:
            value = owner[part]
        elif isinstance(owner, (list, tuple)) and part.isdecimal():
            value = owner[int(part)]
        else:
            return False
        owner = value
    return False
