"""A step that really trains a small network with the stages' own loop, and driver processes to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from pydantic import BaseModel, Field

from cluster.steps.step import Resources, Step, function_name
from tests.support.paths import ROOT


class Config(BaseModel, frozen=True, extra="forbid"):
    """How long to train. `fault` names a file: while it is there, the step waits and does not go on.

    It waits at the optimizer step `at`, or if that is 0 within its commit, between the last file and the manifest.
    `counter` gets one byte for every optimizer step that is really made.
    """

    seed: int = 0
    steps: int = 30
    fault: str = Field("", json_schema_extra={"identity": False})
    at: int = Field(15, json_schema_extra={"identity": False})
    counter: str = Field("", json_schema_extra={"identity": False})


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What was trained before."""

    parts: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The loss of every optimizer step."""

    losses: tuple[float, ...]


def run(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """Trains y = f(x) with dropout, saves the weights; pid in a file beside, while it waits for its fate."""
    import torch

    from stages.common.training.config import TrainingConfig
    from stages.common.training.loop import train

    generator = torch.Generator().manual_seed(config.seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    items = list(torch.rand(24, 4, generator=generator))
    made = 0

    def loss_of(batch: list[torch.Tensor]) -> torch.Tensor:
        nonlocal made
        made += 1
        _count(config.counter)
        _meet_fate(config, made)
        x_BD = torch.stack(batch)
        return ((model(x_BD).squeeze(1) - x_BD.sum(1)) ** 2).mean()

    losses = train(
        items,
        loss_of,
        dict(model.named_parameters()),
        TrainingConfig(learning_rate=0.01, batch_size=4, steps=config.steps),
        seed=config.seed,
        recorder=recorder,
        engine=engine,
    )
    if config.fault and config.at == 0:
        _wait_within_commit(config)
    torch.save(model.state_dict(), out / "model.pt")
    (out / "upstream.txt").write_text("".join((part / "upstream.txt").read_text() for part in inputs.parts) + "x")
    return Result(losses=tuple(losses))


def _count(counter: str) -> None:
    if counter:
        with Path(counter).open("a") as file:
            file.write(".")


def _meet_fate(config: Config, made: int) -> None:
    """Waits where the test can see it, until the file is gone."""
    if config.fault and made == config.at:
        _wait(Path(config.fault))


def _wait_within_commit(config: Config) -> None:
    from cluster.store import local

    real = local.write_atomic

    def write_late(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "manifest.json":
            local.write_atomic = real
            assert (path.parent / "files" / "model.pt").exists()
            _wait(Path(config.fault))
        real(path, *arguments, **options)

    local.write_atomic = write_late


def _wait(fault: Path) -> None:
    if fault.exists():
        fault.write_text(str(os.getpid()))
    while fault.exists():
        time.sleep(0.02)


def trainer(name: str, *parts: Step, cpus: float = 1, **config: Any) -> Step:
    """A step of this module."""
    inputs: dict[str, Any] = {"parts": parts} if parts else {}
    return Step(
        name=name, run=function_name(run), config=Config(**config), inputs=inputs, resources=Resources(cpus=cpus)
    )


def chain(counter: Path, fault: Path | None = None, at: int = 15) -> Step:
    """Three trainings, one after another; the second is where the fault is."""
    first = trainer("train/first", seed=1, counter=str(counter))
    second = trainer("train/second", first, seed=2, counter=str(counter), fault=str(fault or ""), at=at)
    return trainer("train/third", second, seed=3, counter=str(counter))


class Driver:
    """A driver in a process of its own, whose events are read as they happen."""

    def __init__(
        self,
        store: Path,
        counter: Path,
        fault: Path | None = None,
        *,
        at: int = 15,
        tracked: bool = False,
        every_s: int = 0,
        **options: Any,
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "CLOZELINE_CHECKPOINT_EVERY_S": str(every_s)}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.pop(name, None)
        about = {
            "store": str(store),
            "counter": str(counter),
            "fault": str(fault or ""),
            "at": at,
            "tracked": tracked,
            "options": options,
        }
        command = [sys.executable, "-m", "tests.support.training_steps", json.dumps(about)]
        self.process = Popen(command, stdout=PIPE, text=True, env=environment)

    def until(self, *words: str) -> list[str]:
        """Reads until a line begins with these words. Returns it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.split()[: len(words)] == list(words):
                return line.split()
        raise AssertionError(f"the driver ended before it said {words}: {self.process.wait()}")

    def end(self) -> dict[str, Any]:
        """Waits for the end. Returns the outcome."""
        line = self.until("outcome")
        self.process.wait()
        outcome: dict[str, Any] = json.loads(" ".join(line[1:]))
        return outcome

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)


@contextmanager
def driving(*arguments: Any, **options: Any) -> Iterator[Driver]:
    """A driver that is gone at the end, however the test went."""
    driver = Driver(*arguments, **options)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.wait()


def _main(about: dict[str, Any]) -> int:
    from cluster.run.result import RunOptions
    from cluster.run.scheduler import execute
    from cluster.store.location import open_store
    from cluster.tracking.tracker import Tracker

    def say(*words: object) -> None:
        sys.stdout.write(" ".join(str(word) for word in words) + "\n")
        sys.stdout.flush()

    def tell(event: Any) -> None:
        say(type(event).__name__, getattr(event, "step", ""))

    fault = Path(about["fault"]) if about["fault"] else None
    # By its import name, for workers do not know `__main__`.
    from tests.support.training_steps import chain as make

    store = open_store(about["store"])
    options = RunOptions(**{"poll_s": 0.05, "backoff_s": 0.05, "num_cpus": 2, **about["options"]})
    with ExitStack() as stack:
        tracker = stack.enter_context(Tracker.open(store.local, "faults", "run")) if about["tracked"] else None
        outcome = execute([make(Path(about["counter"]), fault, about["at"])], store, options, tracker, tell)
        if tracker is not None and not outcome.ok:
            tracker.close("KILLED" if outcome.is_interrupted else "FAILED")
    names = {
        "executed": outcome.executed,
        "cached": outcome.cached,
        "failed": outcome.failed,
        "stopped": outcome.stopped,
        "interrupted": outcome.is_interrupted,
        "attempts": {name: manifest.attempt for name, manifest in outcome.manifests.items()},
    }
    say("outcome", json.dumps(names))
    return 128 + outcome.signal if outcome.is_interrupted else 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
