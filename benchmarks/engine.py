"""What the engine costs: plans, runs in which all is committed, steps beside bare Ray tasks.

    python benchmarks/engine.py [--store FOLDER]      FOLDER may hold a finished run of the recipe smoke

Prints a table with the limits that the project sets itself. Times depend on the machine, which is printed too.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NUM_STEPS = 200
MANY_SEEDS = 330

CLI = "from pipelines.cli.app import main; main()"
PHASES = """
import json, sys, time
started = time.perf_counter()
spent = {}
def timed(module, name, label):
    real = getattr(module, name)
    def wrapper(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - begun
    setattr(module, name, wrapper)
from pipelines.cli import app
from pipelines.run import runner
spent['import clozeline'] = time.perf_counter() - started
from cluster.tracking import tracker
timed(runner, 'check_request', 'check recipe and assets')
timed(runner, 'plan', 'plan')
timed(runner, 'execute', 'take the results, log them to MLflow')
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
    """Runs all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="a store with a finished run of smoke, or where to run it")
    asked = parser.parse_args()
    print(machine())
    print(f"{'what':58} {'measured':>12} {'limit':>10}")
    with tempfile.TemporaryDirectory() as folder:
        plan_many(Path(folder) / "empty")
        cached_run(asked.store or Path(folder) / "smoke")
        no_op_steps(Path(folder))


def machine() -> str:
    """One line about where this runs."""
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs (load {load:.1f} before), "
        f"Python {platform.python_version()}, Ray {version('ray')}\n"
    )


def row(what: str, measured: str, limit: str = "") -> None:
    """One line of the table."""
    print(f"{what:58} {measured:>12} {limit:>10}", flush=True)


def plan_many(store: Path) -> None:
    """`clozeline plan` of the smoke recipe with so many seeds that it has a thousand steps."""
    seeds = ["-o", f"pet.seeds={list(range(MANY_SEEDS))}"]
    best, lines = 1e9, 0
    for _ in range(3):
        begun = time.perf_counter()
        done = python("-c", CLI, "plan", "smoke", "--store", str(store), *seeds)
        best = min(best, time.perf_counter() - begun)
        lines = sum(line.startswith(("RUN", "CACHED")) for line in done.stdout.splitlines())
    row(f"plan of {lines} steps, whole process, best of 3", f"{best:.2f} s", "2 s")


def cached_run(store: Path) -> None:
    """A run of smoke in which every step is committed, and where its time goes."""
    if not store.exists():
        python("-c", CLI, "run", "smoke", "--store", str(store))
    python("-c", CLI, "run", "smoke", "--store", str(store))
    begun = time.perf_counter()
    done = python("-c", PHASES, str(store))
    whole = time.perf_counter() - begun
    phases = json.loads(done.stderr.strip().splitlines()[-1])
    row("run of smoke with all 19 steps committed, whole process", f"{whole:.2f} s", "10 s")
    for what, seconds in phases.items():
        row(f"    {what}", f"{seconds:.2f} s")
    row("    start and end of Python, the rest", f"{whole - sum(phases.values()):.2f} s")


def no_op_steps(folder: Path) -> None:
    """Steps that do nothing beside bare Ray tasks that do nothing, as many, with as many CPUs."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(ROOT)])
    sys.path[:0] = [str(HERE), str(ROOT)]
    import noop

    from cluster.run.ray_session import session
    from cluster.run.result import RunOptions
    from cluster.run.scheduler import execute
    from cluster.steps.step import Resources, Step
    from cluster.store.location import open_store
    from cluster.tracking.tracker import Tracker

    def steps(kind: str) -> list[Step]:
        return [
            Step(
                name=f"{kind}/{index}",
                run="noop:run",
                config=noop.Config(value=index),
                resources=Resources(max_attempts=1),
            )
            for index in range(NUM_STEPS)
        ]

    with session():
        # Only now, for Ray reads when it is imported who may connect.
        import ray

        task = ray.remote(noop.bare)
        ray.get([task.remote(index) for index in range(8)])
        execute(steps("warm")[:8], open_store(folder / "store"))
        begun = time.perf_counter()
        ray.get([task.remote(index) for index in range(NUM_STEPS)])
        bare = time.perf_counter() - begun
        row(f"{NUM_STEPS} bare Ray tasks", f"{1e3 * bare / NUM_STEPS:.1f} ms each")
        store = open_store(folder / "store")
        untracked = execute(steps("untracked"), store, RunOptions())
        assert untracked.ok
        over = 1e3 * (untracked.wall_s - bare) / NUM_STEPS
        row(f"{NUM_STEPS} steps that do nothing, committed, over bare tasks", f"{over:.1f} ms each", "30 ms")
        with Tracker.open(store.local, "benchmark", "engine") as tracker:
            tracked = execute(steps("tracked"), store, RunOptions(), tracker)
        over = 1e3 * (tracked.wall_s - bare) / NUM_STEPS
        row("    the same with an MLflow run for each", f"{over:.1f} ms each")


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on this project; its output is kept."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=HERE, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return done


if __name__ == "__main__":
    main()
