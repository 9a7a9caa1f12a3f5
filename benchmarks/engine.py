"""Measures the cost of the engine: large plans, runs with only committed steps, and steps compared with Ray tasks.

    python benchmarks/engine.py [PART ...] [--quick] [--store FOLDER]

Parts: recipe (plans and cached runs of the smoke recipe; FOLDER may contain a finished run of it), steps (steps that
compute nothing, compared with bare Ray tasks), scale (10,000 of them compared with 1,000), requests (to S3).

Prints tables with the limits of the project, and exits with 1 if a value exceeds its limit, unless with --quick. Times
depend on the machine and its load, which are printed as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks import noop
from benchmarks.machine import machine
from cluster.run.ray_session import session
from cluster.run.ray_tasks import MAX_TASKS
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import plan
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.store.remote import RemoteStore
from cluster.tracking.tracker import TrackedStep, Tracker
from stages.common.engine import ENGINE

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("recipe", "steps", "scale", "requests")
ROW = 100
"""Steps in a row of the grid. Each reads two steps of the row above."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Seeds of the planned recipe, steps that compute nothing, steps of two grids, older results of a step."""

    num_seeds: int
    num_steps: int
    grids: tuple[int, int]
    num_older: int


FULL = Sizes(num_seeds=330, num_steps=1000, grids=(1000, 10_000), num_older=30)
"""With 330 seeds the smoke recipe has about a thousand steps."""
QUICK = Sizes(num_seeds=10, num_steps=20, grids=(ROW, 2 * ROW), num_older=10)

exceeded: list[str] = []
"""What exceeded its limit."""

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
timed(runner, 'execute', 'load the results, record them')
timed(runner, 'log_plan', 'record recipe, graph and plan')
timed(runner, 'publish', 'report')
timed(tracker.Tracker, 'open', 'open the file with records for MLflow')
sys.argv = ['clozeline', 'run', 'smoke', '--store', sys.argv[1]]
try:
    app.main()
except SystemExit:
    pass
print(json.dumps(spent), file=sys.stderr)
"""


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", type=part, metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--store", type=Path, help="a store with a finished run of smoke, or a new one for it")
    parser.add_argument("--quick", action="store_true", help="plan and run fewer steps, to try the benchmark")
    parser.add_argument("--grid", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.parts or PARTS
    if options.grid:
        print(json.dumps(asdict(run_grid(options.grid, options.store))))
        return
    sizes = QUICK if options.quick else FULL
    print(f"{machine()}\n")
    print_row("measurement", "measured", "limit")
    with tempfile.TemporaryDirectory() as folder:
        if "recipe" in parts:
            measure_large_plan(Path(folder) / "empty", sizes)
            measure_cached_run(options.store or Path(folder) / "smoke")
        if "steps" in parts:
            measure_noop_steps(Path(folder), sizes.num_steps)
        if "scale" in parts:
            measure_scale(Path(folder), sizes.grids)
        if "requests" in parts:
            measure_requests(Path(folder), sizes.num_older)
    if exceeded and not options.quick:
        sys.exit(f"Limits are exceeded: {'; '.join(exceeded)}.")


def part(name: str) -> str:
    """Checks the name of a part."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name!r} is unknown. Known parts: {', '.join(PARTS)}.")
    return name


def print_row(what: str, measured: str, limit: str = "") -> None:
    """Prints one line of the table."""
    print(f"{what:58} {measured:>12} {limit:>10}", flush=True)


def print_limited(what: str, value: float, limit: float, unit: str = "", digits: int = 2) -> None:
    """Prints a value with its limit, and notes it if it is larger."""
    print_row(what, f"{value:.{digits}f} {unit}".rstrip(), f"{limit:g} {unit.partition(' ')[0]}".rstrip())
    if value > limit:
        exceeded.append(f"{what.strip()}: {value:.{digits}f} {unit}".rstrip())


def measure_large_plan(store: Path, sizes: Sizes) -> None:
    """Times `clozeline plan` of the smoke recipe with so many seeds that it has about a thousand steps."""
    seeds = ["-o", f"pet.seeds={list(range(sizes.num_seeds))}"]
    best, num_steps = float("inf"), 0
    for _ in range(3):
        start = time.perf_counter()
        finished = run_python("-c", CLI, "plan", "smoke", "--store", str(store), *seeds)
        best = min(best, time.perf_counter() - start)
        num_steps = sum(line.startswith(("RUN", "CACHED")) for line in finished.stdout.splitlines())
    print_limited(f"plan of {num_steps} steps, whole process, best of 3", best, 2.0, "s")


def measure_cached_run(store: Path) -> None:
    """Times a run of smoke in which every step is committed, phase by phase."""
    if not store.exists():
        run_python("-c", CLI, "run", "smoke", "--store", str(store))
    run_python("-c", CLI, "run", "smoke", "--store", str(store))
    start = time.perf_counter()
    finished = run_python("-c", PHASES, str(store))
    total = time.perf_counter() - start
    phases = json.loads(finished.stderr.strip().splitlines()[-1])
    print_limited("run of smoke with all steps committed, whole process", total, 2.0, "s")
    for phase, seconds in phases.items():
        print_row(f"    {phase}", f"{seconds:.2f} s")
    print_row("    start and end of Python, other", f"{total - sum(phases.values()):.2f} s")


def measure_noop_steps(folder: Path, num_steps: int) -> None:
    """Compares steps that compute nothing with as many bare Ray tasks on as many CPUs."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with session():
        import ray  # noqa: PLC0415  Ray reads its environment, which session() sets, when it is imported

        task = ray.remote(noop.bare_task)
        ray.get([task.remote(index) for index in range(8)])
        store = open_store(folder / "store")
        execute(noop_steps("warm", 8), store, RunOptions(engine=ENGINE))
        start = time.perf_counter()
        ray.get([task.remote(index) for index in range(num_steps)])
        bare_s = time.perf_counter() - start
        print_row(f"{num_steps} bare Ray tasks", f"{1e3 * bare_s / num_steps:.1f} ms each")
        cpu_s = [cpu_seconds()]
        untracked = execute(noop_steps("untracked", num_steps), store, RunOptions(engine=ENGINE))
        cpu_s.append(cpu_seconds())
        assert untracked.ok
        overhead = 1e3 * (untracked.wall_s - bare_s) / num_steps
        print_limited(f"{num_steps} no-op steps, committed, more than bare tasks", overhead, 10.0, "ms each", 1)
        with Tracker.open(store.local, "benchmark", "engine") as tracker:
            tracked = execute(noop_steps("tracked", num_steps), store, RunOptions(engine=ENGINE), tracker)
            cpu_s.append(cpu_seconds())
            start = time.perf_counter()
        delivery_s = time.perf_counter() - start
        overhead = 1e3 * (tracked.wall_s - bare_s) / num_steps
        print_limited("    the same with MLflow", overhead, 15.0, "ms each", 1)
        print_row("    after the last step, until MLflow has everything", f"{1e3 * delivery_s / num_steps:.1f} ms each")
        without, with_mlflow = (1e3 * (cpu_s[index + 1] - cpu_s[index]) / num_steps for index in range(2))
        print_row("    CPU time of all processes, without and with MLflow", f"{without:.1f}, {with_mlflow:.1f} ms")
    measure_cached_tracking(store, tracked, num_steps)


def cpu_seconds() -> float:
    """Returns the CPU time of this process and those that it started, including Ray."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


@dataclass(frozen=True, slots=True)
class Grid:
    """Milliseconds per step of a grid, and kB per step by which the memory of the driver grew."""

    plan: float
    run: float
    run_cpu: float
    cached_run: float
    plan_memory: float
    tasks_memory: float
    run_memory: float


def measure_scale(folder: Path, scales: tuple[int, int]) -> None:
    """Compares the time per step of a large grid of steps with that of a small one, each in a new process."""
    grids = []
    for number in scales:
        store = folder / f"grid-{number}"
        finished = run_python("-m", "benchmarks.engine", "--grid", str(number), "--store", str(store))
        grids.append(Grid(**json.loads(finished.stdout.splitlines()[-1])))
    small, large = grids
    for name, text in (
        ("plan", "plan"),
        ("cached_run", "cached run"),
        ("run", "run"),
        ("run_cpu", "    CPU time of the driver"),
    ):
        before, after = getattr(small, name), getattr(large, name)
        what = f"{text}: per step with {scales[0]} and {scales[1]} steps"
        print_row(what, f"{before:.2f}, {after:.2f} ms")
        print_limited(f"    ratio of {text.strip()}", after / before, 1.2)
    for name, text in (("plan", "the plan"), ("tasks", "as many bare Ray tasks"), ("run", "the run")):
        before, after = getattr(small, f"{name}_memory"), getattr(large, f"{name}_memory")
        print_row(f"memory of the driver, growth per step: {text}", f"{before:.1f}, {after:.1f} kB")


def run_grid(number: int, folder: Path) -> Grid:
    """Plans and runs a grid of steps, then runs it again three times, of which the fastest counts."""
    os.environ["PYTHONPATH"] = str(ROOT)
    memory = [resident_bytes()]
    steps, store, options = grid_steps(number), open_store(folder), RunOptions(engine=ENGINE)
    start = time.perf_counter()
    planned = plan(steps, store, options)
    plan_s = time.perf_counter() - start
    memory.append(resident_bytes())
    with session():
        execute(noop_steps("warm", 8), store, options)
        run_bare_tasks(8)
        memory.append(resident_bytes())
        run_bare_tasks(number)
        memory.append(resident_bytes())
        cpu_s = time.process_time()
        run = execute(planned, store, options)
        cpu_s = time.process_time() - cpu_s
        memory.append(resident_bytes())
    assert run.ok and len(run.executed) == number
    cached = [execute(steps, store, options) for _ in range(3)]
    assert all(len(item.cached) == number for item in cached)
    seconds = (plan_s, run.wall_s, cpu_s, min(item.wall_s for item in cached))
    growths = (memory[1] - memory[0], memory[3] - memory[2], memory[4] - memory[3])
    return Grid(*(1e3 * item / number for item in seconds), *(1e-3 * item / number for item in growths))


def run_bare_tasks(number: int) -> None:
    """Runs tasks of Ray that compute nothing, at most as many at once as a run of the engine does."""
    import ray  # noqa: PLC0415  Ray reads its environment, which session() sets, when it is imported

    task = ray.remote(noop.bare_task)
    for first in range(0, number, MAX_TASKS):
        ray.get([task.remote(index) for index in range(first, min(number, first + MAX_TASKS))])


def resident_bytes() -> int:
    """Returns the memory of this process, without what Python can free."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def grid_steps(number: int) -> list[Step]:
    """Returns `number` steps in rows. Each step reads two steps of the row above."""
    steps: list[Step] = []
    above: list[Step] = []
    while len(steps) < number:
        first = len(steps)
        row = [
            Step(
                name=f"grid/{first // ROW}/{column}",
                run="benchmarks.noop:run",
                config=noop.Config(value=first + column),
                inputs={"left": above[column], "right": above[(column + 1) % ROW]} if above else {},
                resources=Resources(max_attempts=1),
            )
            for column in range(ROW)
        ]
        steps, above = steps + row, row
    return steps


def measure_requests(folder: Path, num_older: int) -> None:
    """Counts requests to S3: of a plan with a long history, of a run, and of a run with only committed steps."""
    import boto3  # noqa: PLC0415  (see below)
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  (only this part needs the packages of the tests)

    from tests.support.s3_helpers import BUCKET, URL, Proxy  # noqa: PLC0415  (see above)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    os.environ |= {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CLOZELINE_CACHE": str(folder / "cache"),
    }
    store = open_store(URL)
    assert isinstance(store, RemoteStore)
    boto3.resource("s3").Bucket(BUCKET).create()
    steps = noop_steps("s3", 20)
    for step in steps:
        for index in range(num_older):
            name = f"{index:064x}"
            older = Manifest(step=step.name, fingerprint=name, key={}, files={}, upstream_digests={}, result=None)
            store.write(f"{step.name}/{name}/manifest.json", older.to_json())
    proxy.requests.clear()
    counts = {}
    plan(steps, store)
    counts[f"plan of a step to run, with {num_older} older results"] = len(proxy.requests)
    with session():
        execute(noop_steps("warm", 2), store, RunOptions(engine=ENGINE))
        planned = plan(steps, store)
        proxy.requests.clear()
        assert execute(planned, store, RunOptions(engine=ENGINE)).ok
        counts["run of a step with one file"] = len(proxy.requests)
    proxy.requests.clear()
    assert execute(steps, store, RunOptions(engine=ENGINE)).ok
    counts["plan and cached run of a step"] = len(proxy.requests)
    for what, number in counts.items():
        print_row(f"requests to S3: {what}", f"{number / len(steps):.1f}")
    proxy.close()
    server.stop()


def measure_cached_tracking(store: Store, result: RunResult, num_steps: int) -> None:
    """Times how long MLflow takes to record `num_steps` cached steps."""
    manifests = list(result.manifests.values())
    start, cpu_start = time.perf_counter(), time.process_time()
    with Tracker.open(store.local, "benchmark", "cached") as tracker:
        for index in range(num_steps):
            manifest = manifests[index % len(manifests)]
            tracker.log_cached(TrackedStep(name=manifest.step, fingerprint=manifest.fingerprint, params={}), manifest)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    print_row(f"record {num_steps} cached steps in MLflow", f"{seconds:.1f} s", "")
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
