"""The step that does nothing, where workers can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel


class Config(BaseModel, frozen=True, extra="forbid"):
    """A number, so that steps differ."""

    value: int


def run(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Returns its number."""
    del inputs, out, recorder, engine
    return {"value": config.value}


def bare(value: int) -> dict[str, int]:
    """The same as a Ray task of nobody's."""
    return {"value": value}
