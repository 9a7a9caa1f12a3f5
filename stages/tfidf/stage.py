"""The TF-IDF stage: trains a member or a baseline that counts words, in seconds and without a pretrained model.

It knows nothing about language but reads whole texts, so it makes other errors than encoders and language models, and
it shows what the ten lines of scikit-learn give that a user would try first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.problems import problem_of
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.class_weights import example_weights
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.common.training.label_bias import with_label_bias
from stages.common.training.throughput import log_texts_per_second
from stages.tfidf.config import TfidfConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the classifier. Its held-out logits are cross-validated.

    Files: those of a member (stages/common/training/evaluation.py), and the classifier in `model/`.
    """

    num_parameters: int
    """Parameters of the classifier."""


def run(config: TfidfConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the classifier, labels test set and unlabeled set, and writes all files to `out`.

    Raises:
        InputError: there are no labeled examples.
    """
    del engine
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("TF-IDF needs labeled examples.", "Add some, or remove this step from the recipe.")

    new = partial(TfidfClassifier.of, config, config)
    problem = problem_of(config.labels, config.problem_type)
    gold = problem.gold_of(train_set)
    weights = example_weights(gold, len(config.labels), config.class_weights)

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        del fold
        fold_classifier = new().fit([train_set[row] for row in fitted], weights=weights[fitted])
        return fold_classifier.predict([train_set[row] for row in held_out], NullRecorder(), "")

    held_out = None
    if config.num_folds:
        strata, groups = problem.strata(gold).tolist(), group_numbers(train_set, config.fields)
        held_out = held_out_logits(strata, len(config.labels), config.num_folds, fit_and_predict, groups=groups)
    classifier = new().fit(train_set, weights=weights)
    held_out = with_label_bias(config.label_bias, classifier, held_out, gold)
    test = write_member_logits(classifier, problem, inputs.data, out, recorder, held_out)
    log_texts_per_second(classifier, load_examples(inputs.data / "test.jsonl"), recorder)
    (out / "model").mkdir()
    classifier.save(out / "model")
    return Result(
        test=test,
        **held_out_scores(held_out, train_set, problem),
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=classifier.num_parameters,
        num_parameters=classifier.num_parameters,
    )
