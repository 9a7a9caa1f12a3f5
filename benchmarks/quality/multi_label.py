"""A multi-label set from single-label articles, and the classifier that a user of scikit-learn would try first.

    python benchmarks/quality/multi_label.py --out OUT [--seed 0]

Joins the starts of two Reuters articles (R8), so that a text has the labels of both, and writes
OUT/{train,unlabeled,test}.jsonl. No article is in two of the files. Prints the scores of TF-IDF with one-vs-rest
logistic regression on the same rows: micro-F1, macro-F1 and subset accuracy, with scikit-learn alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from benchmarks.quality.splits import labeled_rows
from stages.common.seeds import python_rng

SIZES = {"train": 64, "unlabeled": 1000, "test": 400}
SHARES = {"train": 0.2, "unlabeled": 0.5, "test": 0.3}
"""Share of the articles of each label from which the rows of a file are joined."""
CHARACTERS = 240
"""Characters of each article, so that encoders read both."""
Row = dict[str, Any]


def joined_sets(seed: int) -> dict[str, list[Row]]:
    """Returns name of a file -> its rows. Each label of a row is drawn with the same probability."""
    by_label: dict[str, list[str]] = {}
    for row in labeled_rows("r8", seed):
        by_label.setdefault(row["label"], []).append(row["text"][:CHARACTERS])
    sets: dict[str, list[Row]] = {}
    for name, size in SIZES.items():
        articles = {label: _share(texts, name) for label, texts in sorted(by_label.items())}
        sets[name] = _joined(articles, size, seed, name)
    return sets


def _share(texts: Sequence[str], name: str) -> Sequence[str]:
    """Returns the articles of a label for a file."""
    names = list(SHARES)
    before = sum(SHARES[other] for other in names[: names.index(name)])
    return texts[round(before * len(texts)) : round((before + SHARES[name]) * len(texts))]


def _joined(articles: Mapping[str, Sequence[str]], size: int, seed: int, name: str) -> list[Row]:
    """Returns rows of two articles each, in random order."""
    rng = python_rng(seed, "joined", name)
    rows: dict[str, Row] = {}
    while len(rows) < size:
        labels = rng.choices(list(articles), k=2)
        text = "\n".join(rng.choice(articles[label]) for label in labels)
        rows[text] = {"text": text, "label": sorted(set(labels))}
    return list(rows.values())


def scores(gold: Any, predicted: Any) -> dict[str, float]:
    """Returns the scores of label sets, which are arrays [n, C] of 0 and 1."""
    return {
        "micro_f1": f1_score(gold, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
        "subset accuracy": accuracy_score(gold, predicted),
    }


def one_vs_rest(train: Sequence[Row], test: Sequence[Row], *, tunes_thresholds: bool) -> dict[str, float]:
    """Returns the test scores of TF-IDF with one-vs-rest logistic regression.

    Args:
        train: The labeled rows.
        test: The test rows.
        tunes_thresholds: Whether the threshold of each label is cross-validated, or 50%.
    """
    binarizer = MultiLabelBinarizer()
    gold = binarizer.fit_transform([row["label"] for row in train])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier: Any = LogisticRegression(C=10, max_iter=1000)
    if tunes_thresholds:
        classifier = TunedThresholdClassifierCV(classifier, scoring="f1", cv=4)
    model = make_pipeline(vectorizer, MultiOutputClassifier(classifier))
    model.fit([row["text"] for row in train], gold)
    return scores(binarizer.transform([row["label"] for row in test]), model.predict([row["text"] for row in test]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    options = parser.parse_args()
    sets = joined_sets(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        shown = [{"text": row["text"]} if name == "unlabeled" else row for row in rows]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in shown)
        (options.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for tunes_thresholds in (False, True):
        print("thresholds:", "cross-validated" if tunes_thresholds else "50%")
        for name, value in one_vs_rest(sets["train"], sets["test"], tunes_thresholds=tunes_thresholds).items():
            print(f"    {name:16} {100 * value:.1f}")


if __name__ == "__main__":
    main()
