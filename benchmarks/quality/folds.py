"""Measures a tuned encoder that is the mean of the encoders of the folds, and one that is tuned once more.

    python benchmarks/quality/folds.py [--sets tweets,products] [--encoders MiniLM,MPNet] [--seeds 2] [--folds 4]

Prints the test accuracy of the probe with `average_folds` and without, and the seconds of both, for each set and
encoder: means over seeds. Uses the sets of the development half only, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.quality.splits import DEVELOPMENT, comma_list, prepare
from pipelines.default_models import MINILM, MPNET, MULTILINGUAL_E5
from pipelines.init.default_recipe import contrastive_settings
from stages.common.engine import InProcessEngine
from stages.common.examples import Example, write_examples
from stages.common.models.encoders.config import EncoderConfig
from stages.common.protocols import NullRecorder
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig

ENCODERS = {"MiniLM": MINILM, "MPNet": MPNET, "E5": MULTILINGUAL_E5}
MAX_LENGTH = 96


def write_data(name: str, seed: int, folder: Path) -> tuple[str, ...]:
    """Writes the files that a probe reads, without unlabeled examples. Returns the labels."""
    split = prepare(name, seed, Path(), folder / "splits")
    labels: set[str] = set()
    for part in ("train", "test", "unlabeled"):
        rows = [] if part == "unlabeled" else (split / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        items = [json.loads(row) for row in rows]
        examples = [Example(str(number), {"text": item["text"]}, item["label"]) for number, item in enumerate(items)]
        write_examples(folder / f"{part}.jsonl", examples)
        labels |= {item["label"] for item in items}
    return tuple(sorted(labels))


def measure(data: Path, config: ProbeConfig) -> tuple[float, float]:
    """Returns the test accuracy of a probe, and its seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        result = probe.run(config, probe.Inputs(data=data), Path(out), NullRecorder(), InProcessEngine())
    return result.test.accuracy, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", type=comma_list(DEVELOPMENT), default=["tweets", "products", "r8"], help="names, separated by commas"
    )
    parser.add_argument("--encoders", type=comma_list(ENCODERS), default=["MiniLM"], help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--folds", type=int, default=4, help="number of folds")
    options = parser.parse_args()
    print(f"| set, encoder, {options.folds} folds | tuned once more | mean of the folds | seconds | seconds |")
    print("|---|--:|--:|--:|--:|")
    for name in options.sets:
        for title in options.encoders:
            model, found = ENCODERS[title], []
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    labels = write_data(name, seed, Path(folder))
                    for averages in (False, True):
                        settings = contrastive_settings(len(labels), options.folds) | {"average_folds": averages}
                        config = ProbeConfig(
                            labels=labels,
                            fields=("text",),
                            encoder=EncoderConfig(asset=model.asset, max_length=MAX_LENGTH, prefix=model.prefix),
                            contrastive=ContrastiveConfig(**settings, seed=seed),
                            num_folds=options.folds,
                        )
                        found.append(measure(Path(folder), config))
            accuracies, seconds = np.array(found).reshape(-1, 2, 2).mean(axis=0).T
            cells = " | ".join([f"{100 * item:.1f}" for item in accuracies] + [f"{item:.0f}" for item in seconds])
            print(f"| {name}, {title} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
