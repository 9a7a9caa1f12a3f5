"""Runs the smoke recipe in a loop under faults, and compares every number with a run without them.

    make soak [MINUTES=60] [SEED=0]

In each round some committed results are removed, a driver starts, something breaks while steps run, and the command is
repeated until it succeeds. Then all results must equal those of the unbroken run, no step may have run without a
reason, and all files of the store must have the hashes of their manifests. Prints a table; exits with 1 at the first
difference.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.steps.plan import Plan, PlanState, Selection
from cluster.store.base import Store
from cluster.store.lease import Leases
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from tests.soak.drivers import Driver, Workplace
from tests.soak.faults import FAULTS, Fault
from tests.support.paths import ROOT
from tests.support.result_numbers import numbers_of

MAX_RUNS = 8
NUM_REMOVED = (2, 5)
"""Fewest and most results that are removed before a round."""


def write(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class DifferenceError(Exception):
    """A result, a store or the history of a run is not as it must be."""


@dataclass
class Row:
    """All rounds of one fault: commands that were needed, steps that ran, and starts of steps that did not end."""

    rounds: int = 0
    runs: int = 0
    steps: int = 0
    restarts: int = 0
    seconds: float = 0.0


@dataclass
class Soak:
    """The loop. `numbers` are those of the unbroken run, by step."""

    place: Workplace
    store: str
    seeded: random.Random
    numbers: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def plan(self, store: str) -> tuple[Store, Plan]:
        """Plans the recipe, comparing the hashes of all files."""
        request = load_request("smoke", self.place.overrides(), store)
        return request.store, plan_recipe(request.config, request.store, Selection(verify=True))

    def check_store(self, store: str) -> dict[str, Any]:
        """Returns the numbers of all steps. All of them must be committed and intact."""
        planned = self.plan(store)[1]
        open_steps = [
            f"{line.name}: {'; '.join(line.reasons)}" for line in planned if line.state is not PlanState.CACHED
        ]
        if open_steps:
            raise DifferenceError(f"not committed: {open_steps}")
        return {name: numbers_of(item) for name, item in planned.manifests.items()}

    def run_unbroken(self) -> None:
        """Runs the recipe without a fault."""
        driver = Driver.start(self.place, self.store, {})
        if driver.end():
            raise DifferenceError(f"the unbroken run failed: {driver.log}")
        self.numbers = self.check_store(self.store)

    def run_round(self, fault: Fault) -> None:
        """Removes some results and brings them back while something breaks."""
        start = time.monotonic()
        with fault.prepared() as variables:
            removed = self.remove_some(fault.store)
            drivers = [Driver.start(self.place, fault.store, variables)]
            if drivers[0].wait_for_start(self.seeded.randint(1, len(removed))):
                fault.inject(drivers[0])
            code = drivers[0].end()
            codes = [other.end() for other in fault.others]
            fault.repair()
            while code or any(codes):
                if len(drivers) == MAX_RUNS:
                    raise DifferenceError(f"the run still fails: {drivers[-1].log}")
                drivers.append(Driver.start(self.place, fault.store, variables))
                code, codes = drivers[-1].end(), []
            self.check_history(fault, removed, [*drivers, *fault.others])
            self.check_numbers(fault.store)
        row = self.rows.setdefault(fault.name, Row())
        row.rounds += 1
        row.runs += len(drivers) + len(fault.others)
        row.steps += sum(sum(driver.executed().values()) for driver in (*drivers, *fault.others))
        row.restarts += sum(_restarts([*drivers, *fault.others]).values())
        row.seconds += time.monotonic() - start

    def remove_some(self, store: str) -> set[str]:
        """Removes the results of some steps. Returns their names."""
        opened, planned = self.plan(store)
        names = self.seeded.sample(sorted(planned.lines), self.seeded.randint(*NUM_REMOVED))
        with Leases() as leases:
            for name in names:
                slot = opened.slot(name, planned.lines[name].fingerprint)
                leases.acquire(slot, name)
                opened.invalidate(name, planned.lines[name].fingerprint)
                leases.release(slot)
        return set(names)

    def check_history(self, fault: Fault, removed: set[str], drivers: list[Driver]) -> None:
        """Only removed steps may run, each is committed once, and each further start has a reason."""
        if strays := [line for driver in drivers for line in driver.strays]:
            raise DifferenceError(f"standard output has other lines than events: {strays[:3]}")
        executed = sum((driver.executed() for driver in drivers), Counter[str]())
        if unexpected := set(executed) - removed:
            raise DifferenceError(f"ran without a reason: {sorted(unexpected)}")
        if twice := [name for name, number in executed.items() if number > 1]:
            raise DifferenceError(f"ran twice: {twice}")
        for name, number in _restarts(drivers).items():
            retried = sum(driver.steps("step_failed").count(name) for driver in drivers)
            if number > retried + fault.restarts:
                raise DifferenceError(f"{name} started {number + 1} times; {retried} of these attempts failed")

    def check_numbers(self, store: str) -> None:
        """Compares all numbers with those of the unbroken run."""
        for name, numbers in self.check_store(store).items():
            expected = self.numbers[name]
            changed = {key for key in numbers.keys() | expected.keys() if numbers.get(key) != expected.get(key)}
            if changed:
                raise DifferenceError(f"{name} has other numbers: {sorted(changed)[:5]}")

    def print_table(self, minutes: float) -> None:
        """Prints one row per fault."""
        write(f"\n{minutes:.0f} minutes, {sum(row.rounds for row in self.rows.values())} rounds\n")
        write("| fault | rounds | commands | steps run | restarts | minutes |\n|---|--:|--:|--:|--:|--:|")
        for name, row in self.rows.items():
            write(f"| {name} | {row.rounds} | {row.runs} | {row.steps} | {row.restarts} | {row.seconds / 60:.1f} |")


def _restarts(drivers: list[Driver]) -> Counter[str]:
    """Returns how often each step started after its first start."""
    starts = sum((Counter(driver.steps("step_started")) for driver in drivers), Counter[str]())
    return Counter({name: number - 1 for name, number in starts.items() if number > 1})


def make_workplace(folder: Path) -> Workplace:
    """Copies the code and writes the data."""
    place = Workplace(folder, {})
    for package in ("cluster", "stages", "pipelines", "tests"):
        shutil.copytree(
            ROOT / package, place.code / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
    sys.path.insert(0, str(place.code))
    rows = ["text,category"]
    words = {"fresh": "good great warm", "rotten": "bad dull cold"}
    for index in range(200):
        for category, text in words.items():
            rows.append(
                f"A {text.split()[index % 3]} film number {index} with {text.split()[index % 2]} people,{category}"
            )
    place.data.write_text("\n".join(rows) + "\n")
    place.clock.write_text("0")
    place.environment = {**os.environ, "PYTHONPATH": str(place.code), "SOAK_CLOCK": str(place.clock)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"):
        place.environment.pop(name, None)
    return place


def main() -> None:
    """Runs rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the unbroken run; default: a new one")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    seeded = random.Random(options.seed)
    soak = Soak(make_workplace(folder), str(folder / "store"), seeded)
    start = time.monotonic()
    soak.run_unbroken()
    write(f"{folder}: {len(soak.numbers)} steps in {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    waiting: list[type[Fault]] = []
    while time.monotonic() - start < 60 * options.minutes:
        waiting = waiting or seeded.sample(FAULTS, len(FAULTS))
        fault = waiting.pop()(soak.place, soak.store, seeded)
        try:
            soak.run_round(fault)
        except DifferenceError as error:
            soak.print_table((time.monotonic() - start) / 60)
            sys.exit(f"{fault.name}: {error}. Seed {options.seed}, files in {folder}.")
        write(f"{(time.monotonic() - start) / 60:5.1f} min  {fault.name}: equal")
    soak.print_table((time.monotonic() - start) / 60)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
