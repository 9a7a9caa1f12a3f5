"""Measures if the texts that `clozeline select` chooses teach more than as many random ones.

    python benchmarks/quality/selection.py [--sets r8,newsgroups] [--pool FILE --test FILE] [--seeds 5] [--rounds 5]

A file has one object per line, with "text" and "label"; sets are those of splits.py. The first round has no labels, so
select chooses typical texts; later rounds have the results of the last one. The members are TF-IDF classifiers of
words and of characters, and their average is tested. Prints the mean accuracy over seeds, a row per set and a column
per number of labels, and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.splits import DEVELOPMENT, Row, comma_list, development_sets, distinct, read
from pipelines.labeling.selection import choose_informative, choose_typical
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.protocols import NullRecorder
from stages.common.seeds import python_rng

MAX_POOL = 3000
"""Unlabeled texts of a seed."""


class Members(NamedTuple):
    """Two classifiers that were fitted to the same labels."""

    words: TfidfClassifier
    characters: TfidfClassifier

    @classmethod
    def fit(cls, rows: Sequence[Row], labels: Sequence[str]) -> Members:
        examples = _examples(rows)
        return cls(*(TfidfClassifier(labels, ("text",), kind).fit(examples) for kind in ("word", "char")))

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Returns the logits of both, [2, n, C]."""
        return np.stack([member.predict(_examples(rows), NullRecorder(), "") for member in self])


def _examples(rows: Sequence[Row]) -> list[Example]:
    return [Example(str(number), {"text": row["text"]}, row["label"]) for number, row in enumerate(rows)]


def choose_selected(pool: Sequence[Row], members: Members | None, number: int, seed: int) -> list[int]:
    """Chooses rows as `clozeline select` does."""
    texts = [row["text"] for row in pool]
    if members is None:
        return choose_typical(texts, number, seed)
    logits = members.logits(pool)
    return choose_informative(texts, np.mean([softmax(item) for item in logits], axis=0), logits, number, seed)


def choose_random(pool: Sequence[Row], members: Members | None, number: int, seed: int) -> list[int]:
    """Chooses random rows."""
    del members
    return python_rng(seed, "random", str(len(pool))).sample(range(len(pool)), number)


METHODS: dict[str, Callable[[Sequence[Row], Members | None, int, int], list[int]]] = {
    "selected": choose_selected,
    "random": choose_random,
}


def accuracies(
    method: str, pool: Sequence[Row], test: Sequence[Row], args: argparse.Namespace, seed: int
) -> list[float]:
    """Returns the accuracy after each round."""
    labels = sorted({row["label"] for row in (*pool, *test)})
    left, labeled = list(pool), []
    members: Members | None = None
    scores: list[float] = []
    gold = np.array([labels.index(row["label"]) for row in test])
    for _ in range(args.rounds):
        chosen = set(METHODS[method](left, members, args.number, seed))
        labeled += [row for index, row in enumerate(left) if index in chosen]
        left = [row for index, row in enumerate(left) if index not in chosen]
        members = Members.fit(labeled, labels)
        predicted = np.mean([softmax(item) for item in members.logits(test)], axis=0).argmax(axis=1)
        scores.append(float(np.mean(predicted == gold)))
    return scores


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sets",
        type=comma_list(DEVELOPMENT),
        default=[],
        help=f"some of {', '.join(DEVELOPMENT)}, separated by commas",
    )
    parser.add_argument("--pool", type=Path, help="labeled rows to choose from")
    parser.add_argument("--test", type=Path, help="labeled test rows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--number", type=int, default=20, help="labels per round")
    args = parser.parse_args()
    sizes = [args.number * (index + 1) for index in range(args.rounds)]
    print(f"| set | method | {' | '.join(map(str, sizes))} |\n|---|---|{'--:|' * len(sizes)}")
    for name in [*args.sets, *(["file"] if args.pool else [])]:
        means: dict[str, list[float]] = {}
        for method in METHODS:
            scores = []
            for seed in range(args.seeds):
                if name == "file":
                    test = read(args.test)
                    pool = distinct(read(args.pool), exclude=test)
                    python_rng(seed, "pool").shuffle(pool)
                else:
                    _, unlabeled, test = development_sets(name, seed)
                    pool = [row for row in unlabeled if "label" in row]  # who labels a chosen text must know its label
                scores.append(accuracies(method, pool[:MAX_POOL], test, args, seed))
            means[method] = [100 * statistics.fmean(values) for values in zip(*scores, strict=True)]
            print(f"| {name} | {method} | {' | '.join(f'{value:.1f}' for value in means[method])} |", flush=True)
        gains = [a - b for a, b in zip(means["selected"], means["random"], strict=True)]
        print(f"| {name} | difference | {' | '.join(f'{value:+.1f}' for value in gains)} |", flush=True)


if __name__ == "__main__":
    main()
