"""Memory of real workers beside what the planner says, and what each keeps of the weights.

    python benchmarks/cluster/memory.py [--quick]      --quick: two workers of zero3 alone
    python benchmarks/cluster/memory.py --base         over a Llama that weighs nothing: what a process takes by itself

A prompt is tuned over a Llama of 68 million weights in float32, made here, on processors. What is measured is the peak
of each worker's pages that belong to no file, sampled every 20 ms; the highest of the workers is shown.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = (("zero3", 2), ("ddp", 2), ("single", 1), ("zero3", 1), ("zero3", 4))
BASE_CASES = (("single", 1), ("ddp", 2), ("zero3", 2))
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two workers of zero3 alone")
    parser.add_argument("--base", action="store_true", help="a model that weighs next to nothing")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    from cluster.run.ray_session import session
    from tests.support.memory_helpers import measure, write_case

    with tempfile.TemporaryDirectory() as folder, session(num_cpus=4):
        write_case(Path(folder), *((1, 16) if asked.base else ()))
        print(" strategy workers planned MiB  peak MiB  off by    kept  seconds")
        for strategy, workers in CASES[:1] if asked.quick else BASE_CASES if asked.base else CASES:
            found = measure(Path(folder), strategy, workers)
            planned, peak = found.need.total / 2**20, max(found.peaks) / 2**20
            kept = max(found.kept) / max(found.whole, 1)
            print(
                f"{strategy:>9} {workers:>7} {planned:>11.0f} {peak:>9.0f} {planned / peak - 1:>+7.0%} {kept:>7.1%} "
                f"{found.seconds:>8.1f}",
                flush=True,
            )
            print(f"{'':9} before {max(found.before) / 2**20:.0f} MiB; planned: {found.need}", flush=True)


if __name__ == "__main__":
    main()
