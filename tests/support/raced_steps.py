"""Steps of one kind, all of which compute the same. A slow node holds one of them until the test lets it go."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cluster.steps.step import Step
from cluster.store.files import write_atomic
from tests.support.steps import function_name

KIND = "submodel"
NUM_STEPS = 5
SLOW_NODE = "slow_node"
"""File with the id of the slow node."""
IS_SLOW = "is_slow"
"""File with the value of the step that started on the slow node. The other node waits for it."""
FOREVER_S = 600.0


class Config(BaseModel, frozen=True, extra="forbid"):
    """A value, and what the attempts do.

    `folder` is for files of the test. `slow` is what the attempt on the slow node does, and `fast` what the attempt of
    the same step on the other node does, in words: `wait` (until it is interrupted), `wait:FILE`, `write:FILE`, `fail`.
    """

    value: int
    folder: str = Field("", json_schema_extra={"identity": False})
    slow: str = Field("", json_schema_extra={"identity": False})
    fast: str = Field("", json_schema_extra={"identity": False})


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The square of the value."""

    square: int


def run(config: Config, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> Result:
    """Computes a square. Notes its node, and what it found in its folder of checkpoints."""
    import ray  # (this module is imported before `session` sets the environment of Ray)

    folder, node = Path(config.folder), ray.get_runtime_context().get_node_id()
    found = [path.name for path in engine.checkpoint_dir.iterdir() if path.name != ".stop_requested"]
    with (folder / f"attempts-{config.value}").open("a") as file:
        file.write(f"{node} {' '.join(found)}\n")
    (engine.checkpoint_dir / "step.pt").write_text(node)
    recorder.log_metric("train/loss", config.value, 1)
    if node == (folder / SLOW_NODE).read_text():
        write_atomic(folder / IS_SLOW, str(config.value).encode())
        _follow(config.slow, folder)
    else:
        _wait(folder, IS_SLOW)
        if (folder / IS_SLOW).read_text() == str(config.value):
            _follow(config.fast, folder)
    (out / "square.txt").write_text(str(config.value**2))
    return Result(square=config.value**2)


def _follow(words: str, folder: Path) -> None:
    """Does what the words of a config say."""
    for word in words.split():
        action, _, name = word.partition(":")
        if action == "write":
            (folder / name).touch()
        elif action == "fail":
            raise RuntimeError("it broke")
        else:
            _wait(folder, name)


def _wait(folder: Path, name: str) -> None:
    """Waits for a file; without a name, forever. Writes a file if it is interrupted."""
    end = time.monotonic() + FOREVER_S
    try:
        while time.monotonic() < end and not (name and (folder / name).exists()):
            time.sleep(0.05)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        raise


def steps(folder: Path, *, slow: str, fast: str) -> list[Step]:
    """Returns the steps of a fan-out."""
    return [
        Step(
            name=f"sub/{value}",
            run=function_name(run),
            config=Config(value=value, folder=str(folder), slow=slow, fast=fast),
            kind=KIND,
        )
        for value in range(NUM_STEPS)
    ]
