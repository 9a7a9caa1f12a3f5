"""Small steps that really write, read and fail, for the engine's tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cluster.steps.step import Resources, Step, function_name


class Config(BaseModel, frozen=True, extra="forbid"):
    """What a toy does. `counter` is a file that gets one byte for every time the function really runs."""

    value: int = 0
    counter: str = Field("", json_schema_extra={"identity": False})
    pause_s: float = Field(0.0, json_schema_extra={"identity": False})
    fail: str = Field("", json_schema_extra={"identity": False})


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Any number of numbers."""

    parts: tuple[Path, ...] = ()
    base: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The sum, and the parts in the order in which they came."""

    total: int
    order: tuple[str, ...]


class ToyError(ValueError):
    """Bad input, with its remedy."""

    remedy = "Give a better number."

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def run(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """Adds its value to the numbers of its inputs."""
    if config.counter:
        with Path(config.counter).open("a") as file:
            file.write(".")
    sys.stdout.write(f"value {config.value}\n")
    os.system("echo printed by another program")
    recorder.log_metric("toy/value", config.value, 1)
    recorder.log_metric("toy/value", config.value + 1, 2)
    recorder.log_progress(1, 2, phase="adding")
    time.sleep(config.pause_s)
    _fail(config, engine.checkpoint_dir)
    folders = [*inputs.parts, *([inputs.base] if inputs.base else [])]
    total = config.value + sum(int((folder / "number.txt").read_text()) for folder in folders)
    (out / "number.txt").write_text(str(total))
    (out / "more").mkdir()
    (out / "more" / "note.txt").write_text("x" * 100)
    return Result(total=total, order=tuple((folder / "name.txt").read_text() for folder in folders if _name(folder)))


def named(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """The same, and writes its value as its name."""
    (out / "name.txt").write_text(f"n{config.value}")
    return run(config, inputs, out, recorder, engine)


def threads(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """How many threads torch uses, and in which process."""
    import torch

    return {"threads": torch.get_num_threads(), "number_of_inputs": len(inputs), "process": os.getpid()}


def waits(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Waits `pause_s` seconds, and says in `counter` when it begins and when it is ended. It waits once only."""
    counter = Path(config.counter)
    begun_before = counter.exists()
    with counter.open("a") as file:
        file.write(".")
    end = time.monotonic() + config.pause_s
    try:
        while not begun_before and time.monotonic() < end:
            time.sleep(0.02)
    except KeyboardInterrupt:
        with counter.open("a") as file:
            file.write("!")
        raise
    return {"value": config.value}


def picture(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Records one of each kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([1, 2])
    recorder.log_figure("curve", figure)
    recorder.log_table("errors", [{"text": "a", "count": 1}, {"text": "b", "count": 2}])
    for step in range(2500):
        recorder.log_metric("train/loss", 1 / (step + 1), step)
    return {"points": 2500}


def toy(
    name: str,
    value: int = 0,
    *,
    parts: tuple[Step, ...] = (),
    base: Step | None = None,
    fn: Any = named,
    assets: dict[str, str] | None = None,
    resources: Resources | None = None,
    **config: Any,
) -> Step:
    """A step of this module."""
    inputs: dict[str, Any] = {}
    if parts:
        inputs["parts"] = parts
    if base is not None:
        inputs["base"] = base
    return Step(
        name=name,
        run=function_name(fn),
        config=Config(value=value, **config),
        inputs=inputs,
        assets=assets or {},
        resources=resources or Resources(cpus=1),
    )


def _name(folder: Path) -> bool:
    return (folder / "name.txt").exists()


def _fail(config: Config, work: Path) -> None:
    """Fails as asked; with `once` in it, only the first time."""
    if "once" in config.fail:
        if (work / "been here").exists():
            return
        (work / "been here").touch()
    if "error" in config.fail:
        raise ToyError(f"{config.value} is a bad number.")
    if config.fail.startswith("address "):
        address = config.fail.removeprefix("address ")
        sys.stdout.write(f"reading {address}\n")
        raise OSError(f"{address} does not answer")
    if "plain" in config.fail:
        raise RuntimeError("it broke")
    if "connection" in config.fail:
        raise ConnectionResetError("the other side hung up")
    if "kill" in config.fail:
        os.kill(os.getpid(), signal.SIGKILL)
    if "nan" in config.fail:
        raise SystemExit(3)
