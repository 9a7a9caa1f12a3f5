"""All numbers of a result, to compare two of them."""

from __future__ import annotations

from typing import Any

from cluster.store.manifest import Manifest

TIMES = ("seconds", "per_s", "time")
"""Parts of names of numbers that measure the machine, not the task."""


def numbers_of(manifest: Manifest) -> dict[str, Any]:
    """Returns what a step returned and measured, by dotted names, without times."""
    return _flat(manifest.result) | _flat(manifest.metrics)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    return {
        key: number
        for part, item in items
        if not any(word in part for word in TIMES)
        for key, number in _flat(item, f"{name}.{part}").items()
    }
