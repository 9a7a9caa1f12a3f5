"""Starts drivers, follows their events, and knows what they ran."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TIMEOUT_S = 900


@dataclass
class Workplace:
    """Where a soak runs: a copy of the code, the recipe with its data, and the environment of all drivers."""

    folder: Path
    environment: dict[str, str]

    @property
    def code(self) -> Path:
        """The copy of the program, which a fault may edit."""
        return self.folder / "code"

    @property
    def data(self) -> Path:
        """The data of the recipe, which a fault may edit."""
        return self.folder / "films.csv"

    @property
    def clock(self) -> Path:
        """The file that moves the clocks of all drivers."""
        return self.folder / "clock"

    def overrides(self) -> list[str]:
        """Returns the overrides with which the recipe reads `data`."""
        return [f"{key}.asset={self.data}" for key in DATA_KEYS]


DATA_KEYS = ("data.pool",)


@dataclass
class Driver:
    """A process that runs the recipe, the events that it has sent, and lines that are no events."""

    process: subprocess.Popen[str]
    log: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, place: Workplace, store: str, environment: Mapping[str, str]) -> Driver:
        """Starts a run."""
        overrides = [word for item in place.overrides() for word in ("-o", item)]
        command = [sys.executable, "-m", "tests.soak.driver", "run", "smoke", "--store", store, "--json", *overrides]
        log = place.folder / "driver.log"
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                cwd=place.folder,
                env={**place.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        driver = cls(process, log)
        threading.Thread(target=driver._read, daemon=True).start()
        return driver

    def steps(self, event: str) -> list[str]:
        """Returns the steps of all events with a name."""
        return [item["step"] for item in list(self.events) if item["event"] == event]

    def wait_for_start(self, number: int) -> bool:
        """Waits until so many steps have started. Returns False if the process ended before."""
        while self.process.poll() is None:
            if len(self.steps("step_started")) >= number:
                return True
            time.sleep(0.05)
        return False

    def end(self) -> int:
        """Waits for the end of the process and of all that it started. Returns its exit code."""
        children = self.children()
        try:
            code = self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
        psutil.wait_procs(children, timeout=20)
        return code

    def children(self) -> list[psutil.Process]:
        """Returns all processes below this one."""
        try:
            processes: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return processes

    def executed(self) -> Counter[str]:
        """Returns how often each step was computed to its end."""
        return Counter(
            item["step"] for item in list(self.events) if item["event"] == "step_finished" and not item["cached"]
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))
            else:
                self.strays.append(line)
