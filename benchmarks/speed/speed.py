"""Measures the speed of the steps that compute, compared with the peak of the machine and with one job after the other.

    python benchmarks/speed/speed.py [--quick] [--only steps patterns decoding prompts] [--turns 5]

| table | content |
|---|---|
| steps | examples/s of training, scoring and distillation, and the fraction of the machine's peak |
| patterns | six patterns over one cache of the text, compared with six passes |
| prompts | 16 soft prompts in one batch, compared with one after the other; a prompt over the cached text |
| decoding | label words of several tokens in batches, compared with one at a time as in the original PET |

Prints Markdown for docs/explanation/results.md. Measures all jobs of a table in turns in one run. Values are medians of
the turns; ratios are medians of the ratios of the turns. Run nothing else at the same time: other load distorts jobs
with several threads most.
"""

from __future__ import annotations

import argparse

from benchmarks.machine import machine
from benchmarks.speed.decoding import decoding
from benchmarks.speed.patterns import patterns
from benchmarks.speed.prompts import prompts
from benchmarks.speed.steps import steps
from benchmarks.speed.timing import Effort

TABLES = {"steps": steps, "patterns": patterns, "decoding": decoding, "prompts": prompts}


def main() -> None:
    """Prints the selected tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use fewer examples and two turns, to try the benchmark")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables to print")
    parser.add_argument("--turns", type=int, help="number of repetitions of each measurement (5; with --quick 2)")
    options = parser.parse_args()
    effort = Effort(options.turns or (2 if options.quick else 5), options.quick)
    print(f"{machine()}\n")
    for name in options.only:
        print(f"### {name}\n\n{TABLES[name](effort)}", flush=True)


if __name__ == "__main__":
    main()
