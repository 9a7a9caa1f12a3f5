"""Paths of a recipe are relative to its folder: makes them absolute when it is read, relative when it is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)
_END = r"(?:\.zip(?:\.(?:\d|\{\d+\.\.\d+\})+)?|#sha256=[0-9a-f]+)"
_PARTS_END, _JOINT = re.compile(_END + "!"), re.compile(rf"({_END})\+")
"""Where the parts of an archive end, and where the next part starts; see stages/common/assets/references.py"""


def with_absolute_paths(config: Model, folder: Path, overridden: Sequence[str]) -> Model:
    """Returns a recipe in which the references of local files are absolute.

    Args:
        config: The recipe, whose paths are relative to `folder`.
        folder: The folder of its file.
        overridden: Dotted keys that the command line sets. Paths there are relative to the current folder.
    """
    here = Path.cwd()

    def absolute(ref: str, key: str) -> str:
        is_overridden = any(f"{key}.".startswith(f"{item}.") for item in overridden)
        return absolute_ref(ref, here if is_overridden else folder)

    changed = _map_assets(config, "", absolute)
    assert isinstance(changed, type(config))
    return changed


def with_relative_paths(sections: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the sections of a new recipe in `folder`, from sections with paths relative to the current folder."""

    def relative(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [relative(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        return {
            key: relative_ref(item, folder) if key == "asset" and isinstance(item, str)
            else item if key == "label_map"
            else relative(item)
            for key, item in value.items()
        }  # fmt: skip

    return {key: relative(item) for key, item in sections.items()}


def _map_assets(value: Any, key: str, change: Callable[[str, str], str]) -> Any:
    """Returns a value with changed references of assets. What has none is the same object."""
    items: Mapping[Any, Any]
    if isinstance(value, BaseModel):
        items = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, Mapping):
        items = value
    elif isinstance(value, list | tuple):
        items = dict(enumerate(value))
    else:
        return value
    updates = {}
    for name, item in items.items():
        inner = f"{key}.{name}" if key else str(name)
        extra = type(value).model_fields[name].json_schema_extra if isinstance(value, BaseModel) else None
        is_asset = isinstance(item, str) and isinstance(extra, dict) and extra.get("asset")
        new = change(item, inner) if is_asset else _map_assets(item, inner, change)
        if new is not item:
            updates[name] = new
    if not updates:
        return value
    if isinstance(value, BaseModel):
        return value.model_copy(update=updates)
    changed = {**items, **updates}
    return changed if isinstance(value, Mapping) else type(value)(changed.values())


def absolute_ref(ref: str, folder: Path) -> str:
    """Returns a reference whose local paths, which are relative to `folder`, are absolute. Others are unchanged."""
    return _map_paths(ref, lambda path: str(folder / path))


def relative_ref(ref: str, folder: Path) -> str:
    """Returns a reference whose local paths, which are relative to the current folder, are relative to `folder`."""
    return _map_paths(ref, lambda path: os.path.relpath(path, folder))


def _map_paths(ref: str, change: Callable[[str], str]) -> str:
    """Changes the relative path at the start of a reference, or of each of its parts."""
    end = _PARTS_END.search(ref)
    parts, inner = (ref[: end.end() - 1], ref[end.end() - 1 :]) if end else (ref, "")
    pieces = _JOINT.sub(r"\1\n", parts).split("\n") if end or "=>" in ref else [ref]
    return "+".join(change(piece) if _is_relative(piece) else piece for piece in pieces) + inner


def _is_relative(piece: str) -> bool:
    return not (piece.startswith(("pypi:", "hf:", "~", "/")) or "://" in piece or Path(piece).is_absolute())
