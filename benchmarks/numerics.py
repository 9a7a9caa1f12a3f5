"""Counts labels that change with the precision, the batch size, the side of the padding, and the cache of a prefix.

    python benchmarks/numerics.py [--quick] [--examples 300] [--backbone REFERENCE] [--workers]

Scores quotes of critics zero-shot with the patterns of the recipe demo. The reference is float32, one text at a time,
without padding and without a cache. A label that differs is a flip. The last columns say how near labels were to a tie:
the largest change of the difference of two label logits, and how many margins are below the resolution of bfloat16.

With --workers a second table follows: prompts that two workers tuned, against those of one worker, in each precision.
Two workers add the terms of a sum in another order.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cluster.equality import STRATEGIES, TRAINING, Case, tune_prompt
from benchmarks.machine import machine
from benchmarks.speed.timing import film_examples, markdown_table, recipe
from cluster.run.ray_session import session
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.models.config import Precision
from stages.common.models.traits import Padding
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder
from stages.common.training.bf16_margins import fraction_below_resolution

SMALL, LARGE = 256, 8192
"""Padded tokens of a batch: about 4 and 120 texts."""
PATTERNS = {
    "review": "{text}\nSentiment:{mask}",
    "summary": "{text}\nIn summary, the film is{mask}",
    "all": "{text}\nAll in all, it was{mask}",
}
"""They begin with the text, so that a cache can share it."""
WORDS = {
    "rotten": {"review": ["negative"], "summary": ["bad"], "all": ["bad"]},
    "fresh": {"review": ["positive"], "summary": ["good"], "all": ["good"]},
}


class Setting(NamedTuple):
    """One row of the table."""

    precision: Precision
    batch_tokens: int
    padding: Padding = "left"
    is_cached: bool = False

    @property
    def columns(self) -> list[str]:
        """The first columns of the row."""
        size = {1: "one text", SMALL: "about 4 texts", LARGE: "about 120 texts"}[self.batch_tokens]
        return [self.precision, size, self.padding, "yes" if self.is_cached else "no"]


REFERENCE = Setting("fp32", 1)


def settings() -> Iterator[Setting]:
    """Yields the settings that are compared with the reference."""
    for precision in ("fp32", "bf16"):
        if precision == "bf16":
            yield Setting(precision, 1)
        yield Setting(precision, SMALL)
        yield Setting(precision, LARGE)
        yield Setting(precision, LARGE, "right")
        yield Setting(precision, LARGE, is_cached=True)


def scorer(asset: str, precision: Precision) -> Callable[[Setting, list[Example]], NDArray[np.float64]]:
    """Returns a function that computes the label logits [patterns * n, 2] in a setting, on one loaded backbone."""
    config = BackboneConfig(asset=asset, max_length=recipe()["backbone"]["max_length"], precision=precision)
    backbone = load_backbone(config, frozen=True)
    traits = backbone.traits
    task = Task(name="films", labels=("rotten", "fresh"), patterns=PATTERNS, verbalizer=WORDS)

    def compute(setting: Setting, examples: list[Example]) -> NDArray[np.float64]:
        backbone.traits = replace(traits, padding=setting.padding)
        backbone.eval_batch_tokens = setting.batch_tokens
        classifiers = [ClozeClassifier.of(task, pattern, backbone, config) for pattern in PATTERNS]
        recorder = NullRecorder()
        if setting.is_cached:
            return np.concatenate(predict_patterns(classifiers, examples, recorder, ""))
        return np.concatenate([item.predict(examples, recorder, "") for item in classifiers])

    return compute


def compare(asset: str, examples: list[Example]) -> str:
    """Returns the table."""
    rows, reference = [], np.empty(0)
    for precision in get_args(Precision):
        if precision == "auto":
            continue
        compute = scorer(asset, precision)
        if precision == REFERENCE.precision:
            reference = compute(REFERENCE, examples)
            rows.append([*REFERENCE.columns, "", "", "", f"{fraction_below_resolution(reference):.1%}"])
        for setting in settings():
            if setting.precision == precision:
                rows.append([*setting.columns, *differences(compute(setting, examples), reference)])
                print(" | ".join(rows[-1]), flush=True)
    head = ["precision", "batch", "padding", "cached prefix", "flips", "of", "largest change", "margins below bf16"]
    return markdown_table(head, rows)


def compare_workers(asset: str, num_texts: int, *, quick: bool) -> str:
    """Returns the table of prompts that one and two workers tuned, tested on `num_texts` texts."""
    smoke = read_recipe(find_recipe("smoke"), PipelineConfig)
    smoke = smoke.model_copy(update={"data": smoke.data.model_copy(update={"test_size": num_texts})})
    task = smoke.task.only("review").model_copy(update={"patterns": {"review": "{text} It was{mask}"}})
    training = TRAINING.model_copy(update={"steps": 2}) if quick else TRAINING
    rows = []
    with tempfile.TemporaryDirectory() as folder, session(num_cpus=2):
        for precision in ("fp32",) if quick else ("fp32", "bf16"):
            backbone = BackboneConfig(asset=asset, max_length=recipe()["backbone"]["max_length"], precision=precision)
            case, reference = Case(precision, backbone, task), np.empty(0)
            for strategy, workers in STRATEGIES[:2] if quick else STRATEGIES:
                logits = tune_prompt(Path(folder), smoke, case, training, strategy, workers).logits
                is_reference = strategy == STRATEGIES[0][0]
                reference = logits if is_reference else reference
                cells = ["", "", "", f"{fraction_below_resolution(logits):.1%}"]
                rows.append([precision, strategy, str(workers)])
                rows[-1] += cells if is_reference else differences(logits, reference)
                print(" | ".join(rows[-1]), flush=True)
    head = ["precision", "strategy", "workers", "flips", "of", "largest change", "margins below bf16"]
    return markdown_table(head, rows)


def differences(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> list[str]:
    """Returns the last columns of a row, from logits [n, 2]."""
    margins, expected = logits[:, 1] - logits[:, 0], reference[:, 1] - reference[:, 0]
    num_flips = int(((margins > 0) != (expected > 0)).sum())
    largest = float(np.abs(margins - expected).max())
    return [str(num_flips), str(len(logits)), f"{largest:.1e}", f"{fraction_below_resolution(logits):.1%}"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use 8 texts, to try the benchmark")
    parser.add_argument("--examples", type=int, help="number of texts (300; with --quick 8)")
    parser.add_argument("--backbone", default=recipe()["backbone"]["asset"], help="reference of a causal model")
    parser.add_argument("--workers", action="store_true", help="also compare prompts of one and two workers, on Ray")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    num_texts = arguments.examples or (8 if arguments.quick else 300)
    print(machine())
    print(compare(arguments.backbone, film_examples(num_texts)))
    if arguments.workers:
        print(compare_workers(arguments.backbone, num_texts, quick=arguments.quick))


if __name__ == "__main__":
    main()
