"""Measures alternatives to clozeline, sentence encoders with few labels, on the splits of `splits.py`.

    python benchmarks/quality/baselines.py --data FOLDER --out RESULTS.jsonl --sets sst2 --seeds 5 \\
        --encoders minilm,mpnet --methods logreg,setfit

| method | description |
|---|---|
| logreg | unit-length embeddings of the frozen encoder (128 tokens) and scikit-learn's logistic regression |
| setfit | SetFit (Tunstall et al., 2022): tunes the encoder on pairs of labeled examples, then logistic regression |

Appends each result as a line {"set", "seed", "method", "encoder", "accuracy", "macro_f1", "seconds", "note"} to the
file. The note contains the limit of SetFit's pairs, if there is one. Results that are already in the file are not
measured again, so the command can be stopped and repeated. `seconds` covers training and labeling of the test set.
Requires the packages of `pip install -c constraints.txt ".[bench]"`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS, Row, comma_list, prepare, read
from pipelines.default_models import MINILM, MPNET
from stages.common.assets.cache import resolve
from stages.common.metrics.classification import score

ENCODERS = {"minilm": MINILM.asset, "mpnet": MPNET.asset}
METHODS = ("logreg", "setfit")
MAX_LENGTH = 128
"""Maximum number of tokens for logreg; SetFit uses the maximum length of the encoder."""

ALL_PAIRS_UP_TO = 32
"""Number of labeled examples up to which SetFit trains on all pairs, whose number grows with the square."""


Fit = Callable[[list[str], list[int], list[str]], "NDArray[np.float64]"]
"""(training texts, the indices of their labels, test texts) -> logits [n, C] of the test texts."""


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the results. `num_iterations`: SetFit pairs of each kind per text, or None for all pairs."""

    name: str
    seed: int
    method: str
    encoder: str
    num_iterations: int | None

    @property
    def note(self) -> str:
        notes = ["the same split for every seed"] if self.name == "rte" else []
        if self.method == "setfit":
            notes.insert(0, f"num_iterations={self.num_iterations}" if self.num_iterations else "all pairs")
        return "; ".join(notes)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.name, self.seed, self.method, self.encoder, self.note)

    def run(self, split: Path) -> dict[str, Any]:
        encoder = resolve(ENCODERS[self.encoder])
        fit = logreg(encoder) if self.method == "logreg" else setfit(encoder, self.seed, self.num_iterations)
        head = {"set": self.name, "seed": self.seed, "method": self.method, "encoder": self.encoder}
        return {**head, **measure(fit, split), "note": self.note}


def logreg(encoder: Path) -> Fit:
    """Returns logistic regression on embeddings, with the default settings of scikit-learn."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  of the extra `bench`

    model = SentenceTransformer(str(encoder), device="cpu")
    model.max_seq_length = MAX_LENGTH

    def embed(texts: list[str]) -> Any:
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    def fit(train: list[str], gold: list[int], test: list[str]) -> NDArray[np.float64]:
        head = LogisticRegression(max_iter=1000).fit(embed(train), gold)
        result: NDArray[np.float64] = head.predict_log_proba(embed(test))
        return result

    return fit


def setfit(encoder: Path, seed: int, num_iterations: int | None) -> Fit:
    """Returns SetFit with its default settings, batches of 16 and one epoch.

    Args:
        encoder: Folder of the sentence encoder.
        seed: Seed of order and dropout.
        num_iterations: Pairs of each kind per text; None uses all pairs.
    """
    from setfit import SetFitModel, Trainer, TrainingArguments  # noqa: PLC0415  of the extra `bench`

    model = SetFitModel.from_pretrained(str(encoder), device="cpu")

    def fit(train: list[str], gold: list[int], test: list[str]) -> NDArray[np.float64]:
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                batch_size=16,
                num_epochs=1,
                num_iterations=num_iterations,
                seed=seed,
                report_to="none",
                save_strategy="no",
                show_progress_bar=False,
            )
            Trainer(model=model, args=settings, train_dataset=Dataset.from_dict({"text": train, "label": gold})).train()
        probabilities = model.predict_proba(test, as_numpy=True)
        result: NDArray[np.float64] = np.log(np.maximum(probabilities, 1e-12))
        return result

    return fit


def text_of(row: Row) -> str:
    """Returns the text of a row. Joins the two texts of a pair with a space."""
    return " ".join(row[name] for name in ("text", "text_a", "text_b") if name in row)


def measure(fit: Fit, folder: Path) -> dict[str, float]:
    """Trains and tests on one split, and returns the metrics."""
    train, test = read(folder / "train.jsonl"), read(folder / "test.jsonl")
    labels = sorted({row["label"] for row in train})
    gold = [labels.index(row["label"]) for row in train]
    start = time.perf_counter()
    logits = fit([text_of(row) for row in train], gold, [text_of(row) for row in test])
    seconds = time.perf_counter() - start
    scores = score(logits, [row["label"] for row in test], labels)
    return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "seconds": round(seconds, 1)}


def finished_keys(out: Path) -> set[tuple[Any, ...]]:
    """Returns `Job.key` of each result in the file."""
    return {
        (row["set"], seed, row["method"], row["encoder"], row["note"])
        for row in rows.read(out)
        for seed in rows.seeds(row)
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; results in it are not measured again")
    parser.add_argument(
        "--sets", type=comma_list(SEEDS), default=list(SEEDS), help="names of sets, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds per set")
    parser.add_argument(
        "--encoders", type=comma_list(ENCODERS), default=list(ENCODERS), help="names, separated by commas"
    )
    parser.add_argument("--methods", type=comma_list(METHODS), default=list(METHODS), help="names, separated by commas")
    parser.add_argument(
        "--num-iterations", type=int, default=5, help="SetFit pairs of each kind per text, if not all pairs are used"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its default")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    os.environ["HF_HUB_OFFLINE"] = "1"  # all files are local; the client would request model cards
    if options.threads:
        torch.set_num_threads(options.threads)
    jobs = [
        (name, seed, method, encoder)
        for method in options.methods
        for encoder in options.encoders
        for name in options.sets
        for seed in SEEDS[name][: options.seeds]
    ]
    with tempfile.TemporaryDirectory() as splits:
        for name, seed, method, encoder in jobs:
            split = prepare(name, seed, options.data, Path(splits))
            few = len(read(split / "train.jsonl")) <= ALL_PAIRS_UP_TO
            job = Job(name, seed, method, encoder, None if few else options.num_iterations)
            if job.key in finished_keys(options.out):
                continue
            row = job.run(split)
            rows.append(options.out, [row])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
