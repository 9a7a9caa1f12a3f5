"""Names and values that MLflow accepts, derived from those of steps, metrics and configs."""

from __future__ import annotations

import re
from posixpath import normpath
from typing import Any

from cluster.canonical_json import canonical
from cluster.redaction import redact

MAX_KEY, MAX_VALUE = 250, 500
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


def metric_key(name: str) -> str:
    """Returns a valid name for a parameter or metric. MLflow rejects names that are not paths, such as `task/../x`."""
    key = _FORBIDDEN.sub("_", name)[:MAX_KEY]
    if key and normpath(key) == key and not key.startswith(("/", "..")) and key != ".":
        return key
    return key.replace("/", "_").replace("..", "_").strip(".") or "_"


def artifact_name(name: str) -> str:
    """Returns a valid file name without spaces, relative to the folder of a run."""
    return _FORBIDDEN.sub("_", name).replace(" ", "_").lstrip("/.")


def param_value(value: Any) -> str:
    """Returns a value as text, without secrets, cut to the length that MLflow accepts."""
    text = redact(value if isinstance(value, str) else canonical(value))
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def group_name(step: str) -> str:
    """Returns the group in which MLflow shows a step: the first part of its name, or the first two of four or more.

    So the steps of a group differ in one or two things: the seed, and the pattern or the method.

    >>> [group_name(step) for step in ("report", "distill/0", "pet/review/0", "pet/g1/review/0", "prompts/films/ppt/0")]
    ['', 'distill', 'pet', 'pet/g1', 'prompts/films']
    """
    parts = step.split("/")
    return "/".join(parts[: 2 if len(parts) >= 4 else 1]) if len(parts) > 1 else ""
