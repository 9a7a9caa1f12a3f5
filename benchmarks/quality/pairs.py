"""Measures a probe on pairs of texts whose label says whether both are about the same topic.

    python benchmarks/quality/pairs.py [--sets newsgroups,r8] [--encoders MiniLM,MPNet] [--seeds 10]

Half of the pairs have two texts of one label of the set, the others texts of two labels. Prints the accuracy of
logistic regression on each encoder's vectors: of both texts joined (`pairs: joined`), and of both vectors compared
(`pairs: separate`); means and standard deviations over seeds. Writes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.quality.splits import DEVELOPMENT, comma_list, labeled_rows
from pipelines.default_models import MINILM, MPNET
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.pair_encoder import PairEncoder
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.protocols import NullRecorder

SETS = ("newsgroups", "r8")
ENCODERS = {"MiniLM": MINILM, "MPNet": MPNET}
NUM_LABELED, NUM_TEST = 32, 300
MAX_CHARACTERS = 500
FIELDS = ("first", "second")


def texts_of(name: str) -> dict[str, list[str]]:
    """Returns label -> texts of a set."""
    texts: dict[str, list[str]] = {}
    for row in labeled_rows(name):
        texts.setdefault(row["label"], []).append(row["text"][:MAX_CHARACTERS])
    return texts


def draw_pairs(texts: Mapping[str, list[str]], number: int, seed: int) -> list[Example]:
    """Returns pairs of texts, with the label 0 or 1 in turn."""
    labels = [label for label, items in texts.items() if len(items) > 1]
    rng = np.random.default_rng(seed)
    pairs = []
    for uid in range(number):
        if uid % 2:
            label = labels[rng.integers(len(labels))]
            first, second = (texts[label][item] for item in rng.choice(len(texts[label]), 2, replace=False))
        else:
            first, second = (
                texts[labels[item]][rng.integers(len(texts[labels[item]]))]
                for item in rng.choice(len(labels), 2, replace=False)
            )
        pairs.append(Example(str(uid), dict(zip(FIELDS, (first, second), strict=True)), str(uid % 2)))
    return pairs


def accuracy(features: torch.Tensor, gold: NDArray[np.int64]) -> float:
    """Returns the accuracy on the pairs after the first `NUM_LABELED`, which the head is fitted to."""
    targets = F.one_hot(torch.from_numpy(gold), 2).double()
    weight, bias = fit_logistic_regression(features[:NUM_LABELED], targets[:NUM_LABELED], 1.0)
    predicted = F.linear(features[NUM_LABELED:], weight, bias).argmax(dim=1).numpy()
    return float((predicted == gold[NUM_LABELED:]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=comma_list(DEVELOPMENT), default=list(SETS), help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument(
        "--encoders", type=comma_list(ENCODERS), default=list(ENCODERS), help="names, separated by commas"
    )
    options = parser.parse_args()
    print("| set, encoder | joined | compared |")
    print("|---|--:|--:|")
    for name in options.sets:
        texts = texts_of(name)
        for title in options.encoders:
            config = EncoderConfig(asset=ENCODERS[title].asset, max_length=128)
            readers = (TextEncoder.of(config, FIELDS), PairEncoder.of(config, FIELDS))
            found = []
            for seed in range(options.seeds):
                pairs = draw_pairs(texts, NUM_LABELED + NUM_TEST, seed)
                gold = np.array([int(str(item.label)) for item in pairs])
                joined, compared = (reader.embed(pairs, NullRecorder(), "", bf16=True) for reader in readers)
                sets = (F.normalize(joined, dim=1), compared)
                found.append([accuracy(features, gold) for features in sets])
            mean, std = 100 * np.mean(found, axis=0), 100 * np.std(found, axis=0)
            cells = " | ".join(f"{one:.1f} ± {other:.1f}" for one, other in zip(mean, std, strict=True))
            print(f"| {name}, {title} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
