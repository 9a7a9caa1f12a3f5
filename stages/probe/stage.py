"""The probe stage: trains an ensemble member that is logistic regression on sentence embeddings.

A probe reads texts in a different way than a cloze classifier, so it makes different errors, which an ensemble
benefits from. The encoder is frozen or, with `contrastive`, tuned on the labeled examples first
(stages/probe/contrastive.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.pair_encoder import encoder_class
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.checkpoints import AveragedParameters, load_parameters
from stages.common.training.class_weights import example_weights
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.common.training.label_bias import with_label_bias
from stages.common.training.throughput import log_texts_per_second
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.probe.contrastive import tune_encoder, tuned_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the probe. Its held-out logits are cross-validated; with `contrastive`, each fold tunes the encoder.

    Files: those of a member (stages/common/training/evaluation.py), and in `model/` the head, in float32, with the
    reference of a frozen encoder, or with the tuned encoder itself.
    """

    num_parameters: int
    """Parameters of the probe, trained or frozen."""


def run(config: ProbeConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the probe, labels test set and unlabeled set, and writes all files to `out`. Each text is embedded once.

    Raises:
        InputError: there are no labeled examples.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("a probe needs labeled examples.", "Add some, or remove the probe.", key="members")
    student = StudentConfig(**config.encoder.model_dump(), tune="head", head_regularization_c=config.regularization_c)
    probe = TextClassifier.from_encoder(
        student, config.labels, config.fields, seed=0, problem_type=config.problem_type,
        kind=encoder_class({"pairs": config.pairs}),
    )  # fmt: skip
    probe.predicts_in_bf16 = probe.trains_in_bf16
    fitting = _Fitting(config, probe, train_set, recorder, engine)
    frozen = None if config.contrastive else fitting.features()
    held_out = fitting.cross_validate(frozen)
    num_tuned = fitting.tune(config.contrastive) if config.contrastive else 0
    features = fitting.features() if frozen is None else frozen
    probe.fit_head(features, fitting.targets(), config.regularization_c, fitting.weights())
    held_out = with_label_bias(config.label_bias, probe, held_out, probe.problem.gold_of(train_set))
    test = write_member_logits(probe, probe.problem, inputs.data, out, recorder, held_out)
    log_texts_per_second(probe, load_examples(inputs.data / "test.jsonl"), recorder)
    (out / "model").mkdir()
    if config.contrastive:
        probe.save(out / "model")
    else:
        probe.save_head(out / "model", config.encoder.asset)
    return Result(
        test=test,
        **held_out_scores(held_out, train_set, probe.problem),
        num_labeled=len(train_set),
        num_unlabeled=0,
        num_parameters=probe.num_parameters,
        trainable_parameters=num_tuned + sum(item.numel() for item in probe.parameters.values()),
    )


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Fits the probe to all labeled examples, and to those outside each fold."""

    config: ProbeConfig
    probe: TextClassifier
    train_set: Sequence[Example]
    recorder: Recorder
    engine: Engine
    average: AveragedParameters = field(default_factory=AveragedParameters)
    """Of the encoders of the folds."""

    def features(self) -> Tensor:
        """Returns the features of the labeled examples, [n, D], from the current encoder."""
        return self.probe.embed(self.train_set, self.recorder, "labeled examples")

    def weights(self) -> Tensor:
        """Returns the weights of the labeled examples, [n]."""
        gold = self.probe.problem.gold_of(self.train_set)
        return torch.from_numpy(example_weights(gold, len(self.config.labels), self.config.class_weights))

    def targets(self) -> Tensor:
        """Returns the targets of the labeled examples, [n, C]."""
        problem = self.probe.problem
        return torch.from_numpy(problem.targets(problem.gold_of(self.train_set)))

    def tune(self, contrastive: ContrastiveConfig) -> int:
        """Tunes the encoder on all labeled examples, or averages the encoders of the folds, if there are some. Returns
        the number of its weights.
        """
        if contrastive.average_folds and self.average.num_steps:
            load_parameters(tuned_parameters(self.probe.encoder), self.average.parameters)
            return sum(item.numel() for item in self.average.parameters.values())
        return self._tune(contrastive, self.train_set, "checkpoint", self.recorder)

    def cross_validate(self, frozen: Tensor | None) -> NDArray[np.float64] | None:
        """Returns held-out logits, [n, C]. The encoder is then as before.

        Args:
            frozen: Features of the frozen encoder. None: each fold tunes the encoder.
        """
        config, problem = self.config, self.probe.problem
        strata = problem.strata(problem.gold_of(self.train_set))
        targets, groups = self.targets(), group_numbers(self.train_set, config.fields)
        weights = self.weights()
        pretrained = _copy_weights(self.probe) if frozen is None else {}

        def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
            features = self._features_of_fold(fold, fitted, pretrained) if frozen is None else frozen
            weight, bias = fit_logistic_regression(
                features[fitted], targets[fitted], config.regularization_c, weights[fitted],
                problem_type=config.problem_type,
            )  # fmt: skip
            logits: NDArray[np.float64] = F.linear(features[held_out], weight, bias).double().numpy()
            return logits

        return held_out_logits(strata.tolist(), len(config.labels), config.num_folds, fit_and_predict, groups=groups)

    def _features_of_fold(self, fold: int, fitted: Indices, pretrained: Mapping[str, Tensor]) -> Tensor:
        """Returns features, [n, D], of an encoder that is tuned on the rows `fitted`."""
        contrastive = self.config.contrastive
        assert contrastive is not None
        self.recorder.log_progress(fold, self.config.num_folds, phase="folds of the cross-validation")
        has_curve = contrastive.average_folds and fold == 0
        recorder = self.recorder if has_curve else NullRecorder()
        self._tune(contrastive, [self.train_set[row] for row in fitted], f"fold-{fold}", recorder)
        if contrastive.average_folds:
            self.average.update(tuned_parameters(self.probe.encoder))
        features = self.probe.embed(self.train_set, NullRecorder(), "")
        self.probe.encoder.model.load_state_dict(pretrained)
        return features

    def _tune(self, contrastive: ContrastiveConfig, examples: Sequence[Example], name: str, recorder: Recorder) -> int:
        return tune_encoder(
            self.probe.encoder, examples, contrastive, self.probe.problem,
            bf16=self.probe.trains_in_bf16, recorder=recorder, engine=self.engine, name=name,
        )  # fmt: skip


def _copy_weights(probe: TextClassifier) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in probe.encoder.model.state_dict().items()}
