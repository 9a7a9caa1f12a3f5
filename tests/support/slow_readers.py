"""A step that writes two files, and one that reads the second file long after the first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, Field

from cluster.steps.step import Step


class Config(BaseModel, frozen=True):
    """Files with which a test and a step that reads wait for each other."""

    started: str = Field("", json_schema_extra={"identity": False})
    may_end: str = Field("", json_schema_extra={"identity": False})


def write(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str]:
    """Writes the name of this attempt to two files."""
    attempt = uuid4().hex
    for name in ("first", "second"):
        (out / name).write_text(attempt)
    return {"attempt": attempt}


def read(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> list[str]:
    """Returns what is in both files."""
    first = (inputs["base"] / "first").read_text()
    Path(config.started).touch()
    while not Path(config.may_end).exists():
        time.sleep(0.02)
    return [first, (inputs["base"] / "second").read_text()]


def reader(folder: Path) -> Step:
    """Returns the step that reads, with the step `base` that writes."""
    base = Step(name="base", run=f"{__name__}:write", config=Config())
    config = Config(started=str(folder / "started"), may_end=str(folder / "may_end"))
    return Step(name="reader", run=f"{__name__}:read", config=config, inputs={"base": base})
