"""Memory of a process that labels and labels: texts padded as they come, and padded to a grid of lengths.

    python benchmarks/label_memory.py [--texts 100000]

One pattern of the recipe smoke on BERT-tiny, batches of 256 quotes, one thread, a process for each way. Resident memory
is that of the process when so many texts are labelled.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time

SHARES = (0.1, 0.25, 0.5, 1.0)
WAYS = {"as they come": 1, "grid of 8": 8}
"""Name -> multiple to which lengths are padded."""


def label(grid: int, num_texts: int) -> None:
    """In a process of its own: prints texts, MiB and seconds at each share."""
    import psutil
    import torch

    from pipelines.run.request import load_request
    from stages.common.data.sources import read_examples
    from stages.common.models import batching
    from stages.common.models.backbones.loader import load_backbone
    from stages.common.models.cloze.classifier import ClozeClassifier
    from stages.common.models.encoders import text_encoder
    from stages.common.protocols import NullRecorder

    torch.set_num_threads(1)
    batching.PAD_TO_MULTIPLE_OF = text_encoder.PAD_TO_MULTIPLE_OF = grid
    with tempfile.TemporaryDirectory() as folder:
        config = load_request("smoke", [], folder).config
    assert config.data.pool is not None
    pool = read_examples(config.data.pool, None)
    pattern = next(iter(config.task.patterns))
    classifier = ClozeClassifier.of(config.task, pattern, load_backbone(config.backbone, frozen=True), config.backbone)
    draw = random.Random(0)
    ends = [round(share * num_texts / 256) for share in SHARES]
    started = time.perf_counter()
    for number in range(1, ends[-1] + 1):
        classifier.predict([draw.choice(pool) for _ in range(256)], NullRecorder(), "")
        if number in ends:
            print(number * 256, psutil.Process().memory_info().rss / 2**20, time.perf_counter() - started, flush=True)


def main() -> None:
    """Runs both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--grid", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.grid:
        label(asked.grid, asked.texts)
        return
    found = {}
    for way, grid in WAYS.items():
        command = [sys.executable, __file__, "--grid", str(grid), "--texts", str(asked.texts)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        found[way] = [[float(word) for word in line.split()] for line in lines if line[:1].isdigit()]
    print("| texts | " + " | ".join(f"{way}, MiB" for way in WAYS) + " | ratio | seconds, grid over not |")
    print("|--:|" + "--:|" * (len(WAYS) + 2))
    for (texts, before, slow), (_, after, fast) in zip(*found.values(), strict=True):
        print(f"| {texts:,.0f} | {before:,.0f} | {after:,.0f} | {after / before:.2f} | {fast / slow:.2f} |")


if __name__ == "__main__":
    main()
