"""A step and a Ray task that compute nothing, in a module that workers can import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel


class Config(BaseModel, frozen=True, extra="forbid"):
    """A number, so that the steps differ."""

    value: int


def run(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Returns the number of the config."""
    del inputs, out, recorder, engine
    return {"value": config.value}


def bare_task(value: int) -> dict[str, int]:
    """Returns the same value as `run`, as a plain Ray task."""
    return {"value": value}
