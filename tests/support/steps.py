"""Small steps that write files, read files and fail on request, for the tests of the engine."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cluster.run.ray_session import FORWARDED
from cluster.steps.fingerprint import fingerprints
from cluster.steps.step import Resources, Step
from cluster.steps.task_spec import LateConfig, TaskSpec
from cluster.store.base import Store
from cluster.store.files import file_digest
from cluster.store.lease import Lease, Owner, new_token
from stages.common.engine import ENGINE


def function_name(function: Callable[..., Any]) -> str:
    """Returns `module:function` of a function, as `Step.run` has it."""
    return f"{function.__module__}:{function.__qualname__}"


class Config(BaseModel, frozen=True, extra="forbid"):
    """What a step does. `counter` is a file that gets one byte whenever the function runs; see `_fail` for `fail`."""

    value: int = 0
    counter: str = Field("", json_schema_extra={"identity": False})
    pause_s: float = Field(0.0, json_schema_extra={"identity": False})
    fail: str = Field("", json_schema_extra={"identity": False})


class EditConfig(BaseModel, frozen=True, extra="forbid"):
    """The file that a step reads, and the text that is in the file only while the step runs."""

    path: str
    text: str = Field("", json_schema_extra={"identity": False})


class FileConfig(BaseModel, frozen=True, extra="forbid"):
    """The size of a file. While the file `full_disk` exists, the step writes to a device that is always full."""

    num_bytes: int
    full_disk: str = Field("", json_schema_extra={"identity": False})


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Any number of numbers."""

    parts: tuple[Path, ...] = ()
    base: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The sum, and the names of the inputs in their order."""

    total: int
    order: tuple[str, ...]


class ToyError(ValueError):
    """Invalid input, with a remedy."""

    remedy = "Use another number."

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def run(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """Adds its value to the numbers of its inputs."""
    _count(config)
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
    names = [folder / "name.txt" for folder in folders]
    return Result(total=total, order=tuple(path.read_text() for path in names if path.exists()))


def named(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """Does the same, and writes its value as its name."""
    (out / "name.txt").write_text(f"n{config.value}")
    return run(config, inputs, out, recorder, engine)


def threads(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Returns the number of threads of torch, and the process."""
    import torch  # (the other steps start faster without it)

    return {"threads": torch.get_num_threads(), "number_of_inputs": len(inputs), "process": os.getpid()}


def imports(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str]:
    """Returns the files of the packages of the program, as a worker imports them."""
    return {name: str(importlib.import_module(name).__file__) for name in ("cluster", "stages", "pipelines")}


def variables(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str | None]:
    """Returns the environment variables that a worker receives from its driver."""
    return {name: os.environ.get(name) for name in FORWARDED}


def task_name(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str]:
    """Returns the name of the task of Ray that runs the step."""
    import ray  # (the other steps start faster without it)

    return {"name": ray.get_runtime_context().get_task_name()}


def waits(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Waits `pause_s` seconds in its first attempt. Writes to `counter` when it starts and when it is interrupted."""
    counter = Path(config.counter)
    is_first = not counter.exists()
    _count(config)
    end = time.monotonic() + config.pause_s
    try:
        while is_first and time.monotonic() < end:
            time.sleep(0.02)
    except KeyboardInterrupt:
        with counter.open("a") as file:
            file.write("!")
        raise
    return {"value": config.value}


def picture(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Records a figure, a table and a curve."""
    from matplotlib.figure import Figure  # (the other steps start faster without it)

    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([1, 2])
    recorder.log_figure("curve", figure)
    recorder.log_table("errors", [{"text": "a", "count": 1}, {"text": "b", "count": 2}])
    for step in range(2500):
        recorder.log_metric("train/loss", 1 / (step + 1), step)
    return {"points": 2500}


def reads_edited(config: EditConfig, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str]:
    """Reads a file that someone else edits and restores at the same time."""
    path = Path(config.path)
    before = path.read_text()
    if config.text:
        path.write_text(config.text)
    read = path.read_text()
    if config.text:
        path.write_text(before)
    return {"read": read}


def write_large(config: FileConfig, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, int]:
    """Writes a small file and a large one."""
    (out / "small.txt").write_text("small")
    if config.full_disk and Path(config.full_disk).exists():
        (out / "large.bin").symlink_to("/dev/full")
    with (out / "large.bin").open("wb") as file:
        file.write(b"x" * config.num_bytes)
    return {"written": config.num_bytes}


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
    """Returns a step with a function of this module."""
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


def edited(name: str, path: Path, text: str = "") -> Step:
    """Returns a step that reads a file, while `text` is in it."""
    digest = file_digest(path)
    config = EditConfig(path=str(path), text=text)
    return Step(
        name=name,
        run=function_name(reads_edited),
        config=config,
        assets={"data": digest},
        files={str(path): digest},
    )


def large(name: str, num_bytes: int, full_disk: Path | None = None) -> Step:
    """Returns a step that writes a large file."""
    config = FileConfig(num_bytes=num_bytes, full_disk=str(full_disk or ""))
    return Step(name=name, run=function_name(write_large), config=config)


def task_spec(step: Step, store: Store) -> TaskSpec:
    """Returns what a worker needs to run a step without inputs, in the name of this process as its driver."""
    return TaskSpec(
        step=step.name,
        run=step.run,
        config=LateConfig(step.config),
        roles={},
        key=fingerprints({step.name: step})[step.name],
        store=store.url,
        lease=Lease(owner=Owner.current(), token=new_token()),
        resources=step.resources,
        engine=ENGINE,
        files=step.files,
        identify="cluster.store.files:file_digest",
        provenance={},
    )


def _count(config: Config) -> None:
    if config.counter:
        with Path(config.counter).open("a") as file:
            file.write(".")


def _fail(config: Config, checkpoint_dir: Path) -> None:
    """Fails as `fail` says, after printing it: error, plain, connection, kill, exit or `address URL`.

    With `once`, only the first time.
    """
    sys.stdout.write(f"{config.fail}\n")
    sys.stdout.flush()
    if "once" in config.fail:
        if (checkpoint_dir / "started").exists():
            return
        (checkpoint_dir / "started").touch()
    if "error" in config.fail:
        raise ToyError(f"{config.value} is an invalid number.")
    if config.fail.startswith("address "):
        address = config.fail.removeprefix("address ")
        sys.stdout.write(f"reading {address}\n")
        raise OSError(f"{address} does not answer")
    if "plain" in config.fail:
        raise RuntimeError("it broke")
    if "connection" in config.fail:
        raise ConnectionResetError("the other side closed the connection")
    if "kill" in config.fail:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in config.fail:
        raise SystemExit(3)
