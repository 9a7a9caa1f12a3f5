"""How fast the steps compute: beside the machine's peak, and beside doing the same one by one.

    python benchmarks/speed/speed.py [--quick] [--only steps patterns decoding prompts] [--turns 5]

| table | what |
|---|---|
| steps | examples/s of training, scoring and distilling, and their share of the machine's matrix products |
| patterns | six patterns over one cache of the text, against six passes |
| prompts | 16 soft prompts in one batch against one after the other; a prompt at the end over the cache of the text |
| decoding | label words of several tokens in batches, against one text and word at a time as in the original PET |

Prints Markdown for docs/results.md. Everything of a table is measured in one run, in turns; figures are medians of the
turns, ratios medians of the turns' ratios. Let nothing else run: threads that wait for each other suffer most.
"""

from __future__ import annotations

import argparse

from benchmarks.speed.decoding import decoding
from benchmarks.speed.patterns import patterns
from benchmarks.speed.prompts import prompts
from benchmarks.speed.steps import steps
from benchmarks.speed.timing import Effort, machine

TABLES = {"steps": steps, "patterns": patterns, "decoding": decoding, "prompts": prompts}


def main() -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and two turns: to see that it works")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables to print")
    parser.add_argument("--turns", type=int, help="times that each measurement is repeated (5, quick: 2)")
    asked = parser.parse_args()
    effort = Effort(asked.turns or (2 if asked.quick else 5), asked.quick)
    print(f"{machine()}\n")
    for name in asked.only:
        print(f"### {name}\n\n{TABLES[name](effort)}", flush=True)


if __name__ == "__main__":
    main()
