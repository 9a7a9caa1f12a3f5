"""A driver that runs three training steps in its own process, and the class that controls the process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from cluster.tracking.tracker import Tracker
from stages.common.engine import ENGINE
from tests.support.paths import ROOT
from tests.support.training_steps import chain


class Driver:
    """The process of a driver. It prints its events as they happen."""

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
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOZELINE_CHECKPOINT_EVERY_S": str(every_s)}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.pop(name, None)
        settings = {
            "store": str(store),
            "counter": str(counter),
            "fault": str(fault or ""),
            "at": at,
            "tracked": tracked,
            "options": options,
        }
        command = [sys.executable, "-m", "tests.support.programs.training_driver", json.dumps(settings)]
        self.process = Popen(command, stdout=PIPE, text=True, env=environment)

    def until(self, *words: str) -> list[str]:
        """Reads until a line starts with these words. Returns the words of the line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.split()[: len(words)] == list(words):
                return line.split()
        raise AssertionError(f"the driver ended before it printed {words}: {self.process.wait()}")

    def end(self) -> dict[str, Any]:
        """Waits for the end of the process. Returns the result of the run."""
        line = self.until("result")
        self.process.wait()
        result: dict[str, Any] = json.loads(" ".join(line[1:]))
        return result

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)


@contextmanager
def driving(*arguments: Any, **options: Any) -> Iterator[Driver]:
    """Starts a driver and kills it at the end of the block."""
    driver = Driver(*arguments, **options)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.wait()
        assert driver.process.stdout is not None
        driver.process.stdout.close()


def print_line(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def main(settings: dict[str, Any]) -> int:
    """Runs the steps and prints events and result. Returns the exit code."""
    fault = Path(settings["fault"]) if settings["fault"] else None
    leaf = chain(Path(settings["counter"]), fault, settings["at"])
    store = open_store(settings["store"])
    options = RunOptions(engine=ENGINE, **{"poll_s": 0.05, "backoff_s": 0.05, "num_cpus": 2, **settings["options"]})
    with ExitStack() as stack:
        tracker = stack.enter_context(Tracker.open(store.local, "faults", "run")) if settings["tracked"] else None
        result = execute(
            [leaf],
            store,
            options,
            tracker,
            lambda event: print_line(type(event).__name__, getattr(event, "step", "")),
        )
        if tracker is not None and not result.ok:
            tracker.close("KILLED" if result.is_interrupted else "FAILED")
    summary = {
        "executed": result.executed,
        "cached": result.cached,
        "failed": result.failed,
        "stopped": result.stopped,
        "interrupted": result.is_interrupted,
        "attempts": {name: manifest.attempt for name, manifest in result.manifests.items()},
    }
    print_line("result", json.dumps(summary))
    return 128 + result.signal if result.is_interrupted else 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
