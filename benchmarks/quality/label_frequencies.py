"""Measures what the estimate of label frequencies among unlabeled texts is worth.

    python benchmarks/quality/label_frequencies.py [--sets products,editorials,tweets,r8,newsgroups] [--seeds 6]

A classifier, logistic regression on a frozen MiniLM, learns from 16 texts per label. The unlabeled and the test texts
have other frequencies of the labels: those of the set and, with two labels, several ratios. Prints a row per set and
ratio: the accuracy and macro-F1 of the classifier, how much the estimate (ensemble.label_frequencies: unlabeled)
changes them, in points, and how much true frequencies would; means over seeds. Writes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.quality.splits import DEVELOPMENT, SHOTS, comma_list, labeled_rows
from pipelines.default_models import MINILM
from stages.common.examples import Example
from stages.common.models.averaging import Scaling
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.protocols import NullRecorder
from stages.common.training.cross_validation import held_out_logits
from stages.soft_labels.label_frequencies import estimate_frequencies

MAX_ROWS = 4000
"""Texts of a set."""
RATIOS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Frequencies of the first of two labels."""
NUM_FOLDS = 8
REGULARIZATION_C = 1.0
ENCODER = EncoderConfig(asset=MINILM.asset, max_length=128)


@dataclass(frozen=True, slots=True)
class LabeledSet:
    """All texts of a set: features [n, D], indices of their labels [n], number of labels."""

    features: torch.Tensor
    gold: NDArray[np.int64]
    num_labels: int

    @classmethod
    def read(cls, name: str) -> LabeledSet:
        """Reads a set, and embeds its texts."""
        rows = labeled_rows(name)[:MAX_ROWS]
        labels = sorted({row["label"] for row in rows})
        examples = [Example(str(number), {"text": row["text"]}) for number, row in enumerate(rows)]
        features = TextEncoder.of(ENCODER, ["text"]).embed(examples, NullRecorder(), "", bf16=True)
        gold = np.array([labels.index(row["label"]) for row in rows])
        return cls(torch.nn.functional.normalize(features, dim=1), gold, len(labels))

    def split(self, ratio: float | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Returns the rows of train, unlabeled and test set. `ratio`: frequency of the first label in the last two."""
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(self.gold))
        of_label = [rows[self.gold[rows] == label] for label in range(self.num_labels)]
        train = np.concatenate([its_rows[:SHOTS] for its_rows in of_label])
        rest = [its_rows[SHOTS:] for its_rows in of_label]
        if ratio is not None:
            first = min(len(rest[0]), int(len(rest[1]) * ratio / (1 - ratio)))
            rest = [rest[0][:first], rest[1][: round(first * (1 - ratio) / ratio)]]
        others = rng.permutation(np.concatenate(rest))
        return train, others[len(others) // 3 :], others[: len(others) // 3]


def measure(data: LabeledSet, ratio: float | None, seed: int) -> NDArray[np.float64]:
    """Returns accuracy and macro-F1 without, with the estimated and with the true frequencies, [3, 2]."""
    train, unlabeled, test = data.split(ratio, seed)
    features, gold, num_labels = data.features[train], data.gold[train], data.num_labels

    def logits(fitted: Sequence[int] | NDArray[np.int64], rows: torch.Tensor) -> NDArray[np.float64]:
        targets = F.one_hot(torch.from_numpy(gold[fitted]), num_labels)
        weight, bias = fit_logistic_regression(features[fitted], targets, REGULARIZATION_C)
        result: NDArray[np.float64] = F.linear(rows, weight, bias).double().numpy()
        return result

    held_out = held_out_logits(
        gold.tolist(), num_labels, NUM_FOLDS, lambda _, fitted, others: logits(fitted, features[others])
    )
    assert held_out is not None
    scaling = Scaling.fit(held_out, gold, has_bias=False)
    everything = list(range(len(train)))
    equal = np.full(num_labels, 1 / num_labels)
    estimated = estimate_frequencies(scaling(logits(everything, data.features[unlabeled])), equal)
    true = (np.bincount(data.gold[unlabeled], minlength=num_labels) + 1) / (len(unlabeled) + num_labels)
    test_logits, test_gold = scaling(logits(everything, data.features[test])), data.gold[test]
    predicted = [(test_logits + np.log(frequencies)).argmax(axis=1) for frequencies in (equal, estimated, true)]
    return np.array([[np.mean(item == test_gold), f1_score(test_gold, item, average="macro")] for item in predicted])


def table(names: Sequence[str], num_seeds: int) -> Iterator[str]:
    """Yields the lines of the table."""
    yield "| set | labels | ratio | accuracy | macro-F1 | estimated | | true | |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name in names:
        data = LabeledSet.read(name)
        for ratio in (None, *(RATIOS if data.num_labels == 2 else ())):
            scores = 100 * np.mean([measure(data, ratio, seed) for seed in range(num_seeds)], axis=0)
            differences = " | ".join(f"{value:+.1f}" for value in (scores[1:] - scores[0]).flatten())
            title = "its own" if ratio is None else f"{100 * ratio:.0f}:{100 - 100 * ratio:.0f}"
            yield f"| {name} | {data.num_labels} | {title} | {scores[0, 0]:.1f} | {scores[0, 1]:.1f} | {differences} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sets", type=comma_list(DEVELOPMENT), default=["products", "editorials", "tweets", "r8", "newsgroups"]
    )
    parser.add_argument("--seeds", type=int, default=6)
    args = parser.parse_args()
    for line in table(args.sets, args.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
