"""Runs all benchmarks and prints their tables.

    python benchmarks/run_all.py              # what measures speed, memory and the engine: an hour or more
    python benchmarks/run_all.py --quick      # every script with its smallest sizes, to find those that fail: minutes

A script that fails does not stop the others; the command then ends with exit status 1. Times decide nothing. A script
that needs a package that is not installed is skipped, and a line says so.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORE, FOLDER = "{store}", "{folder}"
"""In arguments: a store for a run of the recipe smoke that several scripts share, and a folder for temporary files."""

NUM_LANES = 2
"""Scripts at the same time in a quick run, each with one thread."""

SMOKE = (sys.executable, "-c", "from pipelines.cli.app import main; main()", "run", "smoke", "--store", STORE)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A script with its arguments. `full`: None if only a quick run includes it. `package`: what it needs."""

    script: str
    full: tuple[str, ...] | None = ()
    quick: tuple[str, ...] = ("--quick",)
    package: str = ""

    @property
    def reads_store(self) -> bool:
        """True if the script needs a finished run of smoke."""
        return STORE in self.quick and self.quick != SMOKE


SET = ("--sets", "products", "--seeds", "1")
"""For scripts about quality: sentences of a package, so no folder is needed."""

BENCHMARKS = (
    Benchmark("speed/peak.py"),
    Benchmark("peak_memory.py", SMOKE, SMOKE),
    Benchmark("speed/speed.py", (), ("--quick", "--turns", "1")),
    Benchmark("speed/model_costs.py"),
    Benchmark("speed/thread_waits.py"),
    Benchmark("numerics.py"),
    Benchmark("label_memory.py"),
    Benchmark("unlabeled_memory.py"),
    Benchmark("cluster/memory.py"),
    Benchmark("cluster/sharded_updates.py", (), ("--quick", "ddp", "fsdp")),  # DeepSpeed compiles for a minute
    Benchmark("cluster/shards.py"),
    Benchmark("cluster/equality.py"),
    Benchmark("engine.py", ("--store", STORE), ("--quick", "--store", STORE)),
    Benchmark("engine_digests.py"),
    Benchmark("serving.py", ("--store", STORE), ("--quick", "--store", STORE)),
    Benchmark("compare_results.py", None, (STORE, STORE)),
    Benchmark("cluster/paper_plan.py", None, ()),
    Benchmark("quality/splits.py", None, ("--out", f"{FOLDER}/splits", *SET)),
    Benchmark("quality/selection.py", None, (*SET, "--rounds", "2")),
    Benchmark("quality/label_frequencies.py", None, SET),
    Benchmark("quality/folds.py", None, (*SET, "--folds", "2")),
    Benchmark("quality/regression.py", None, (*SET, "--test", "40", "--steps", "2")),
    Benchmark("quality/pairs.py", None, (*SET, "--encoders", "MiniLM")),
    Benchmark("quality/multi_label.py", None, ("--out", f"{FOLDER}/multi_label")),
    Benchmark(
        "quality/baselines.py",
        None,
        ("--data", FOLDER, "--out", f"{FOLDER}/baselines.jsonl", *SET, "--methods", "logreg", "--encoders", "minilm"),
        "sentence_transformers",
    ),
    Benchmark("quality/prompts.py", None, ("--table", "benchmarks/quality/results/prompts.jsonl")),
    Benchmark("quality/table.py", None, tuple(f"benchmarks/quality/results/{n}.jsonl" for n in ("default", "rivals"))),
)

NOT_RUN: Mapping[str, str] = {
    "quality/default_recipe.py": "it runs `clozeline init` and its recipe, up to 30 minutes",
    "quality/methods.py": "it trains every method, for a minute or more each",
    "quality/from_file.py": "it does the same for each of its sets, in 5 minutes or more",
}
"""Script -> why a quick run leaves it out."""


def main() -> int:
    """Runs the scripts; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="run every script with its smallest sizes, two at a time")
    quick = parser.parse_args().quick
    included = [benchmark for benchmark in BENCHMARKS if quick or benchmark.full is not None]
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(NUM_LANES if quick else 1) as pool:
        for reads_store in (False, True):  # one of the others makes the store
            group = [benchmark for benchmark in included if benchmark.reads_store == reads_store]
            statuses = pool.map(partial(run, quick=quick, folder=Path(folder)), group)
            failed += [benchmark.script for benchmark, status in zip(group, statuses, strict=True) if status]
    if quick:
        print("\n".join(f"## {script}\n\nskipped: {reason}.\n" for script, reason in NOT_RUN.items()))
    print(f"failed: {', '.join(failed)}" if failed else "All benchmarks ran.")
    return int(bool(failed))


def run(benchmark: Benchmark, *, quick: bool, folder: Path) -> int:
    """Runs a script and prints its output, in a quick run after its end; returns its exit status."""
    if benchmark.package and find_spec(benchmark.package) is None:
        remedy = 'Install the extra `bench`: pip install -c constraints.txt ".[bench]"'
        print(f"## {benchmark.script}\n\nskipped: it needs {benchmark.package}. {remedy}\n", flush=True)
        return 0
    arguments = benchmark.quick if quick or benchmark.full is None else benchmark.full
    words = [word.replace(STORE, str(folder / "store")).replace(FOLDER, str(folder)) for word in arguments]
    title = f"## {shlex.join([benchmark.script, *words])}\n\n"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1"}  # bars of models that are loaded
    command = [sys.executable, str(ROOT / "benchmarks" / benchmark.script), *words]
    start = time.perf_counter()
    if quick:
        finished = subprocess.run(
            command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        status, output = finished.returncode, title + finished.stdout
    else:
        print(title, end="", flush=True)
        status, output = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode, ""
    seconds = time.perf_counter() - start
    print(f"{output}\n{benchmark.script}: exit status {status} after {seconds:.0f} s\n", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
