"""The stage of averaged word vectors: trains a member that knows words but not their order, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.models.word_vectors import WordVectorClassifier, WordVectors
from stages.common.problems import problem_of
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.class_weights import example_weights
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.common.training.label_bias import with_label_bias
from stages.common.training.throughput import log_texts_per_second
from stages.word_vectors.config import WordVectorConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the classifier. Its held-out logits are cross-validated.

    Files: those of a member (stages/common/training/evaluation.py), and the classifier in `model/`.
    """


def run(config: WordVectorConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the classifier, labels test set and unlabeled set, and writes all files to `out`.

    Raises:
        AssetError: the model is unreachable.
        InputError: there are no labeled examples.
    """
    del engine
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("averaged word vectors need labeled examples.", "Add some, or remove this member.")
    vectors = WordVectors.of(config.asset, config.fields)
    problem = problem_of(config.labels, config.problem_type)
    gold = problem.gold_of(train_set)
    weights = torch.from_numpy(example_weights(gold, len(config.labels), config.class_weights))

    def fitted_to(rows: Indices) -> WordVectorClassifier:
        examples = [train_set[row] for row in rows]
        return WordVectorClassifier.fit(
            config, vectors, examples, regularization_c=config.regularization_c, weights=weights[rows]
        )

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        del fold
        return fitted_to(fitted).predict([train_set[row] for row in held_out], NullRecorder(), "")

    strata, groups = problem.strata(gold).tolist(), group_numbers(train_set, config.fields)
    held_out = held_out_logits(strata, len(config.labels), config.num_folds, fit_and_predict, groups=groups)
    classifier = fitted_to(np.arange(len(train_set)))
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
        trainable_parameters=len(config.labels) * (vectors.table_VK.shape[1] + 1),
    )
