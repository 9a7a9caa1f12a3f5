"""Runs all benchmarks, one after another, and prints their tables.

    python benchmarks/run_all.py              # what measures speed, memory and the engine: about an hour on two cores
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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORE, FOLDER = "{store}", "{folder}"
"""In arguments: a store for a run of the recipe smoke that several scripts share, and a folder for temporary files."""

SMOKE = (sys.executable, "-c", "from pipelines.cli.app import main; main()", "run", "smoke", "--store", STORE)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A script with its arguments. `full`: None if only a quick run includes it. `package`: what it needs."""

    script: str
    full: tuple[str, ...] | None = ()
    quick: tuple[str, ...] = ("--quick",)
    package: str = ""

    def arguments(self, *, quick: bool) -> tuple[str, ...] | None:
        """Returns the arguments, or None if the script is not included."""
        return self.quick if quick else self.full


SET = ("--sets", "products", "--seeds", "1")
"""For scripts about quality: sentences of a package, so no folder is needed."""

BENCHMARKS = (
    Benchmark("speed/peak.py"),
    Benchmark("peak_memory.py", SMOKE, SMOKE),
    Benchmark("speed/speed.py", (), ("--quick", "--turns", "1")),
    Benchmark("speed/model_costs.py"),
    Benchmark("numerics.py"),
    Benchmark("label_memory.py"),
    Benchmark("unlabeled_memory.py"),
    Benchmark("cluster/memory.py"),
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
    Benchmark(
        "quality/baselines.py",
        None,
        ("--data", FOLDER, "--out", f"{FOLDER}/baselines.jsonl", *SET, "--methods", "logreg", "--encoders", "minilm"),
        "sentence_transformers",
    ),
    Benchmark("quality/prompts.py", None, ("--table", "benchmarks/quality/results/prompts.jsonl")),
    Benchmark("quality/table.py", None, tuple(f"benchmarks/quality/results/{n}.jsonl" for n in ("default", "rivals"))),
)

NOT_RUN: Mapping[str, str] = {"quality/default_recipe.py": "it runs the default recipe of `clozeline init`, 25 minutes"}
"""Script -> why a quick run leaves it out."""


def main() -> int:
    """Runs the scripts; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="run every script with its smallest sizes")
    quick = parser.parse_args().quick
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for benchmark in BENCHMARKS:
            arguments = benchmark.arguments(quick=quick)
            if arguments is None:
                continue
            if benchmark.package and find_spec(benchmark.package) is None:
                remedy = 'Install the extra `bench`: pip install -c constraints.txt ".[bench]"'
                print(f"## {benchmark.script}\n\nskipped: it needs {benchmark.package}. {remedy}\n", flush=True)
            elif not run(benchmark.script, arguments, Path(folder)):
                failed.append(benchmark.script)
    if quick:
        print("\n".join(f"## {script}\n\nskipped: {reason}.\n" for script, reason in NOT_RUN.items()))
    print(f"failed: {', '.join(failed)}" if failed else "All benchmarks ran.")
    return int(bool(failed))


def run(script: str, arguments: tuple[str, ...], folder: Path) -> bool:
    """Runs a script, whose output is that of this process; returns True if it succeeded."""
    words = [word.replace(STORE, str(folder / "store")).replace(FOLDER, str(folder)) for word in arguments]
    print(f"## {shlex.join([script, *words])}\n", flush=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks" / script), *words]
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
    print(f"\n{script}: exit status {status} after {time.perf_counter() - start:.0f} s\n", flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
