"""Measures the memory of a process that labels many examples, with and without lengths in multiples of 8.

    python benchmarks/label_memory.py [--quick] [--examples 100000]

Uses one pattern of the smoke recipe on BERT-tiny, batches of 256 quotes, one thread, and one process per setting. The
table shows the resident memory of the process after that many examples.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time

import psutil
import torch

from benchmarks.machine import machine
from pipelines.run.request import load_request
from stages.common.data.sources import iter_examples
from stages.common.models import batching
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.protocols import NullRecorder

BATCH = 256
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
SETTINGS = {"no padding to multiples": 1, "multiples of 8": 8}
"""Name of the setting -> the multiple to which lengths are padded."""


def label_examples(pad_to_multiple: int, num_examples: int) -> None:
    """Labels examples in this process; prints number, MiB and seconds at each fraction."""
    torch.set_num_threads(1)
    batching.PAD_TO_MULTIPLE_OF = pad_to_multiple
    with tempfile.TemporaryDirectory() as folder:
        config = load_request("smoke", [], folder).config
    assert config.data is not None
    assert config.data.pool is not None
    assert config.task is not None
    assert config.backbone is not None
    pool = list(iter_examples(config.data.pool, None))
    pattern = next(iter(config.task.patterns))
    classifier = ClozeClassifier.of(config.task, pattern, load_backbone(config.backbone, frozen=True), config.backbone)
    rng = random.Random(0)
    ends = [round(fraction * num_examples / BATCH) for fraction in FRACTIONS]
    start = time.perf_counter()
    for number in range(1, ends[-1] + 1):
        classifier.predict([rng.choice(pool) for _ in range(BATCH)], NullRecorder(), "")
        if number in ends:
            print(number * BATCH, psutil.Process().memory_info().rss / 2**20, time.perf_counter() - start, flush=True)


def main() -> None:
    """Runs both settings and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="label 2,560 examples, to try the benchmark")
    parser.add_argument("--examples", type=int, help="number of examples to label (100,000; with --quick 2,560)")
    parser.add_argument("--pad-to-multiple", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pad_to_multiple:
        label_examples(options.pad_to_multiple, options.examples)
        return
    num_examples = options.examples or (2_560 if options.quick else 100_000)
    measured = {}
    for setting, multiple in SETTINGS.items():
        command = [sys.executable, __file__, "--pad-to-multiple", str(multiple), "--examples", str(num_examples)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        measured[setting] = [[float(word) for word in line.split()] for line in lines if line[:1].isdigit()]
    print(f"{machine()}\n")
    print("| examples | " + " | ".join(f"{setting}, MiB" for setting in SETTINGS) + " | ratio | ratio of the seconds |")
    print("|--:|" + "--:|" * (len(SETTINGS) + 2))
    for (count, without, seconds), (_, padded, padded_seconds) in zip(*measured.values(), strict=True):
        ratios = f"{padded / without:.2f} | {padded_seconds / seconds:.2f}"
        print(f"| {count:,.0f} | {without:,.0f} | {padded:,.0f} | {ratios} |")


if __name__ == "__main__":
    main()
