"""Measures the cost of the engine: large plans, runs with only committed steps, and steps compared with Ray tasks.

    python benchmarks/engine.py [--store FOLDER]      FOLDER may contain a finished run of the smoke recipe

Prints a table with the limits of the project. Times depend on the machine, which is printed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import noop
from cluster.run.ray_session import session
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.location import open_store
from cluster.tracking.tracker import TrackedStep, Tracker
from stages.common.engine import ENGINE

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS, NUM_CACHED = 200, 1000
NUM_SEEDS = 330
"""Seeds with which the smoke recipe has about a thousand steps."""

CLI = "from pipelines.cli.app import main; main()"
PHASES = """
import json, sys, time
start = time.perf_counter()
spent = {}
def timed(module, name, label):
    original = getattr(module, name)
    def wrapper(*args, **kwargs):
        phase_start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - phase_start
    setattr(module, name, wrapper)
from pipelines.cli import app
from pipelines.run import runner
spent['import clozeline'] = time.perf_counter() - start
from cluster.tracking import tracker
timed(runner, 'check_request', 'check recipe and assets')
timed(runner, 'plan_recipe', 'plan')
timed(runner, 'execute', 'load the results, log them to MLflow')
timed(runner, 'log_plan', 'log recipe, graph and plan to MLflow')
timed(runner, 'publish', 'report')
timed(tracker.Tracker, 'open', 'import and open MLflow')
sys.argv = ['clozeline', 'run', 'smoke', '--store', sys.argv[1]]
try:
    app.main()
except SystemExit:
    pass
print(json.dumps(spent), file=sys.stderr)
"""


def main() -> None:
    """Runs the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="a store with a finished run of smoke, or a new one for it")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs (load {load:.1f} before)"
    print(f"{system}, Python {platform.python_version()}, Ray {version('ray')}\n")
    print_row("measurement", "measured", "limit")
    with tempfile.TemporaryDirectory() as folder:
        measure_large_plan(Path(folder) / "empty")
        measure_cached_run(options.store or Path(folder) / "smoke")
        measure_noop_steps(Path(folder))


def print_row(what: str, measured: str, limit: str = "") -> None:
    """Prints one line of the table."""
    print(f"{what:58} {measured:>12} {limit:>10}", flush=True)


def measure_large_plan(store: Path) -> None:
    """Times `clozeline plan` of the smoke recipe with so many seeds that it has about a thousand steps."""
    seeds = ["-o", f"pet.seeds={list(range(NUM_SEEDS))}"]
    best, num_steps = float("inf"), 0
    for _ in range(3):
        start = time.perf_counter()
        finished = run_python("-c", CLI, "plan", "smoke", "--store", str(store), *seeds)
        best = min(best, time.perf_counter() - start)
        num_steps = sum(line.startswith(("RUN", "CACHED")) for line in finished.stdout.splitlines())
    print_row(f"plan of {num_steps} steps, whole process, best of 3", f"{best:.2f} s", "2 s")


def measure_cached_run(store: Path) -> None:
    """Times a run of smoke in which every step is committed, phase by phase."""
    if not store.exists():
        run_python("-c", CLI, "run", "smoke", "--store", str(store))
    run_python("-c", CLI, "run", "smoke", "--store", str(store))
    start = time.perf_counter()
    finished = run_python("-c", PHASES, str(store))
    total = time.perf_counter() - start
    phases = json.loads(finished.stderr.strip().splitlines()[-1])
    print_row("run of smoke with all steps committed, whole process", f"{total:.2f} s", "10 s")
    for phase, seconds in phases.items():
        print_row(f"    {phase}", f"{seconds:.2f} s")
    print_row("    start and end of Python, other", f"{total - sum(phases.values()):.2f} s")


def measure_noop_steps(folder: Path) -> None:
    """Compares steps that compute nothing with as many bare Ray tasks on as many CPUs."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with session():
        import ray  # noqa: PLC0415  Ray reads its environment, which session() sets, when it is imported

        task = ray.remote(noop.bare_task)
        ray.get([task.remote(index) for index in range(8)])
        store = open_store(folder / "store")
        execute(noop_steps("warm", 8), store, RunOptions(engine=ENGINE))
        start = time.perf_counter()
        ray.get([task.remote(index) for index in range(NUM_STEPS)])
        bare_s = time.perf_counter() - start
        print_row(f"{NUM_STEPS} bare Ray tasks", f"{1e3 * bare_s / NUM_STEPS:.1f} ms each")
        untracked = execute(noop_steps("untracked", NUM_STEPS), store, RunOptions(engine=ENGINE))
        assert untracked.ok
        overhead = 1e3 * (untracked.wall_s - bare_s) / NUM_STEPS
        print_row(f"{NUM_STEPS} no-op steps, committed, more than bare tasks", f"{overhead:.1f} ms each", "30 ms")
        with Tracker.open(store.local, "benchmark", "engine") as tracker:
            tracked = execute(noop_steps("tracked", NUM_STEPS), store, RunOptions(engine=ENGINE), tracker)
        overhead = 1e3 * (tracked.wall_s - bare_s) / NUM_STEPS
        print_row("    the same with one MLflow run per step", f"{overhead:.1f} ms each")
    measure_cached_tracking(store, tracked)


def measure_cached_tracking(store: Store, result: RunResult) -> None:
    """Times how long MLflow takes to record `NUM_CACHED` cached steps."""
    manifests = list(result.manifests.values())
    start, cpu_start = time.perf_counter(), time.process_time()
    with Tracker.open(store.local, "benchmark", "cached") as tracker:
        for index in range(NUM_CACHED):
            manifest = manifests[index % len(manifests)]
            tracker.log_cached(TrackedStep(name=manifest.step, fingerprint=manifest.fingerprint, params={}), manifest)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    print_row(f"record {NUM_CACHED} cached steps in MLflow", f"{seconds:.1f} s", "")
    print_row("    CPU of the driver", f"{cpu:.1f} s")


def noop_steps(kind: str, count: int) -> list[Step]:
    """Returns `count` steps that compute nothing."""
    return [
        Step(
            name=f"{kind}/{index}",
            run="benchmarks.noop:run",
            config=noop.Config(value=index),
            resources=Resources(max_attempts=1),
        )
        for index in range(count)
    ]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with this project on its path. Exits with the output if the command fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        sys.exit(finished.stdout + finished.stderr)
    return finished


if __name__ == "__main__":
    main()
