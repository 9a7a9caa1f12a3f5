"""A step that writes a large file, for tests of full disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cluster.steps.step import Step, function_name


class Config(BaseModel, frozen=True, extra="forbid"):
    """`full` is a file: while it is there, what the step writes goes to a device that is always full."""

    num_bytes: int
    full: str = Field("", json_schema_extra={"identity": False})


def run(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Writes a small file and a large one."""
    (out / "small.txt").write_text("small")
    if config.full and Path(config.full).exists():
        (out / "large.bin").symlink_to("/dev/full")
    with (out / "large.bin").open("wb") as file:
        file.write(b"x" * config.num_bytes)
    return {"written": config.num_bytes}


def large(name: str, num_bytes: int, full: Path | None = None) -> Step:
    """A step of this module."""
    return Step(name=name, run=function_name(run), config=Config(num_bytes=num_bytes, full=str(full or "")))
