"""Compares prompts that predict numbers with ridge regression, on sentences with a mean rating from -4 to 4.

    python benchmarks/quality/regression.py --sets products,editorials --seeds 3

32 sentences have a rating, 500 others are predicted. Prompts are trained on SmolLM2-135M with the words "terrible" and
"great"; `untrained` uses the two words alone. Ridge regression reads TF-IDF features or sentence embeddings; its
penalty is cross-validated on the 32 sentences. The ratings are those of Hutto & Gilbert, ICWSM 2014.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV

from benchmarks.quality.splits import comma_list, rated_sentences
from pipelines.default_models import MINILM, MPNET, SMOLLM2, ModelAsset
from stages.common.engine import InProcessEngine
from stages.common.models.backbones.config import BackboneConfig, LoraConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.prompts.config import PromptConfig
from stages.common.protocols import NullRecorder
from stages.common.seeds import python_rng
from stages.common.training.config import TrainingConfig
from stages.regression.config import RegressionTask
from stages.regression.examples import RegressionExample, write_examples
from stages.regression.metrics import RegressionScore, score_values
from stages.regression.model import Regressor
from stages.regression.tuning import stage as tuning
from stages.regression.tuning.config import RegressionTuningConfig

SETS = {"products": "amazonReviewSnippets", "editorials": "nytEditorialSnippets"}
RANGE = (-4.0, 4.0)
PENALTIES = np.logspace(-3, 3, 13)
TASK = RegressionTask(name="rating", pattern="{text}\nIt is{mask}", words=("terrible", "great"), range=RANGE)
METHODS = {
    "prompt tuning": PromptConfig(num_virtual_tokens=20),
    "P-tuning v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=8),
    "LoRA": PromptConfig(method="lora", lora=LoraConfig(rank=8, targets=("q_proj", "v_proj"))),
}
RATES = {"LoRA": 1e-3}
"""Learning rates other than that of prompts."""


class Sets(NamedTuple):
    """Labeled sentences and sentences to predict."""

    train: list[RegressionExample]
    test: list[RegressionExample]


def sample(name: str, seed: int, num_train: int, num_test: int) -> Sets:
    """Draws the sentences of a set and seed."""
    rows = [
        RegressionExample(f"s{number}", {"text": text}, rating)
        for number, (rating, text) in enumerate(rated_sentences(SETS[name]))
        if text.strip()
    ]
    python_rng(seed, name).shuffle(rows)
    return Sets(rows[:num_train], rows[num_train : num_train + num_test])


def ridge(sets: Sets, features_of: ModelAsset | None) -> RegressionScore:
    """Scores ridge regression on embeddings of an encoder, or on TF-IDF features."""
    if features_of is None:
        texts = [[item.fields["text"] for item in part] for part in sets]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts[0])
        features = [vectorizer.transform(part).toarray() for part in texts]
    else:
        encoder = TextEncoder.of(EncoderConfig(asset=features_of.asset, max_length=64), ("text",))
        features = [encoder.embed([item.text for item in part], NullRecorder(), "").numpy() for part in sets]
    right = [np.array([item.value for item in part]) for part in sets]
    predicted_n = RidgeCV(PENALTIES).fit(features[0], right[0]).predict(features[1])
    return score_values(right[1], np.clip(predicted_n, *RANGE), RANGE)


def prompt(sets: Sets, method: str, seed: int, steps: int) -> RegressionScore:
    """Trains the prompts of a method and scores them."""
    backbone = BackboneConfig(asset=SMOLLM2.asset, max_length=64)
    if method == "untrained":
        model = Regressor(TASK, load_backbone(backbone, frozen=True), backbone, None)
        return model.evaluate(sets.test, NullRecorder(), "").score
    training = TrainingConfig(
        learning_rate=RATES.get(method, 3e-3), batch_size=8, steps=steps, weight_decay=0.0, warmup_ratio=0.1
    )
    config = RegressionTuningConfig(task=TASK, backbone=backbone, prompt=METHODS[method], training=training, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        data.mkdir()
        out.mkdir()
        for name, part in (("train", sets.train), ("dev", []), ("test", sets.test)):
            write_examples(data / f"{name}.jsonl", part)
        return tuning.run(config, tuning.Inputs(data=data), out, NullRecorder(), InProcessEngine()).test


def scores(sets: Sets, seed: int, steps: int) -> Iterator[tuple[str, RegressionScore, float]]:
    """Yields each way with its score and its seconds."""
    ways: dict[str, Callable[[], RegressionScore]] = {
        "TF-IDF + ridge regression": partial(ridge, sets, None),
        "MiniLM + ridge regression": partial(ridge, sets, MINILM),
        "MPNet + ridge regression": partial(ridge, sets, MPNET),
        **{name: partial(prompt, sets, name, seed, steps) for name in ("untrained", *METHODS)},
    }
    for name, measure in ways.items():
        start = time.perf_counter()
        yield name, measure(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=comma_list(SETS), default=list(SETS), help="names of sets, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per set")
    parser.add_argument("--train", type=int, default=32, help="sentences with a rating")
    parser.add_argument("--test", type=int, default=500, help="sentences to predict")
    parser.add_argument("--steps", type=int, default=64, help="training steps of a prompt, of 8 sentences")
    options = parser.parse_args()
    for name in options.sets:
        found: dict[str, list[tuple[RegressionScore, float]]] = {}
        for seed in range(options.seeds):
            sets = sample(name, seed, options.train, options.test)
            for way, score, seconds in scores(sets, seed, options.steps):
                found.setdefault(way, []).append((score, seconds))
        print(f"{name}, {options.train} rated sentences, {options.seeds} seeds\n")
        print("| | Pearson | Spearman | RMSE | seconds |\n|---|--:|--:|--:|--:|")
        for way, measured in found.items():
            values = {key: [getattr(score, key) for score, _ in measured] for key in ("pearson", "spearman", "rmse")}
            cells = [_mean_std(values["pearson"], 100, 1), _mean_std(values["spearman"], 100, 1)]
            cells += [_mean_std(values["rmse"], 1, 2), f"{statistics.fmean(seconds for _, seconds in measured):.0f}"]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)
        print()


def _mean_std(values: list[float], factor: float, digits: int) -> str:
    mean = f"{factor * statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
