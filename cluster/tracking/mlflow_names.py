"""Names and values that MLflow accepts, derived from those of steps, metrics and configs."""

from __future__ import annotations

import re
from posixpath import normpath
from typing import Any

from cluster.canonical_json import canonical
from cluster.redaction import redact

MAX_KEY, MAX_VALUE = 250, 500
_ODD = re.compile(r"[^\w\-. :/]")


def metric_key(name: str) -> str:
    """The name of a parameter or metric. MLflow takes it for a path, and refuses what is none, such as `task/../x`."""
    key = _ODD.sub("_", name)[:MAX_KEY]
    if key and normpath(key) == key and not key.startswith(("/", "..")) and key != ".":
        return key
    return key.replace("/", "_").replace("..", "_").strip(".") or "_"


def artifact_name(name: str) -> str:
    """The name of a file, without spaces, below the run's own folder."""
    return _ODD.sub("_", name).replace(" ", "_").lstrip("/.")


def param_value(value: Any) -> str:
    """A value as text, without secrets; what MLflow would refuse as too long is cut."""
    text = redact(value if isinstance(value, str) else canonical(value))
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def kind_tag(step: str) -> dict[str, str]:
    """What steps of one kind have in common, to list and compare them: the first part of their names."""
    return {"stage.kind": step.partition("/")[0]}


def group_name(step: str) -> str:
    """The group in which MLflow shows a step: the first part of its name, or the first two of four and more.

    So in a group one thing or two differ: the seed, and the pattern or the method.

    >>> [group_of(step) for step in ("report", "distill/0", "pet/review/0", "pet/g1/review/0", "prompts/films/ppt/0")]
    ['', 'distill', 'pet', 'pet/g1', 'prompts/films']
    """
    parts = step.split("/")
    return "/".join(parts[: 2 if len(parts) >= 4 else 1]) if len(parts) > 1 else ""
