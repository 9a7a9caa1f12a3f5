"""Trains a sub-model: puts its objective together, and runs the phases of its training.

The objective is a label loss, with auxiliary losses (masked language modeling, label conditioning) and demonstrations
if they are configured. A student of self-training has two phases: pseudo-labeled examples, then labeled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.common.examples import Example
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.demonstrations import Demonstrations
from stages.common.models.cloze.label_conditioning import LabelConditioning
from stages.common.models.cloze.mlm import MlmLoss
from stages.common.models.cloze.objective import AuxiliaryLoss, ChangeBatch, Objective
from stages.common.models.cloze.prefix_cache import cached_loss
from stages.common.prompts.tuning import trainable_parameters, tune
from stages.common.protocols import Engine, Recorder
from stages.common.training.config import TrainingConfig
from stages.pet.config import PetConfig, PseudoLabelConfig
from stages.pet.self_training import PseudoLabels, WeightedPseudoLabels


@dataclass(frozen=True, slots=True)
class TrainingSets:
    """What a sub-model learns from."""

    labeled: Sequence[Example]
    pseudo_labels: PseudoLabels = field(default_factory=lambda: PseudoLabels([], {}))
    """Of teachers: of iPET without soft labels, or of self-training."""
    unlabeled: Sequence[Example] = ()
    """For the auxiliary loss on unlabeled examples."""
    dev: Sequence[Example] = ()
    """For early stopping."""


def train_submodel(
    config: PetConfig,
    classifier: ClozeClassifier,
    demonstrations: Demonstrations | None,
    sets: TrainingSets,
    recorder: Recorder,
    engine: Engine,
    name: str = "checkpoint",
) -> list[float]:
    """Trains a sub-model in place; returns the loss of every step. Without training examples, nothing is trained.

    Args:
        config: The sub-model.
        classifier: The untrained classifier.
        demonstrations: Those of the classifier, if it has some.
        sets: What it learns from.
        recorder: Gets the curves.
        engine: Runs the training.
        name: Name of the checkpoints, which differs if a stage trains several times.
    """
    training, trainer = config.training, _Trainer(config, classifier, demonstrations, sets, recorder, engine)
    if training is None:
        return []
    if config.student is None:
        return trainer.run([*sets.labeled, *sets.pseudo_labels.examples], training, name)
    losses = trainer.run(sets.pseudo_labels.examples, training, f"{name}-pseudo-labels", config.student)
    if config.student.finetuning is not None:
        losses += trainer.run(sets.labeled, config.student.finetuning, f"{name}-labeled")
    return losses


@dataclass(frozen=True, slots=True)
class _Trainer:
    """Runs one phase after the other."""

    config: PetConfig
    classifier: ClozeClassifier
    demonstrations: Demonstrations | None
    sets: TrainingSets
    recorder: Recorder
    engine: Engine

    def run(
        self, examples: Sequence[Example], training: TrainingConfig, name: str, student: PseudoLabelConfig | None = None
    ) -> list[float]:
        """Trains on some examples. `student`: if their labels are those of a teacher with soft labels."""
        if not examples:
            return []
        config = self.config
        dropout = config.tune == "prompt" and config.prompt.backbone_dropout
        changes = self._changes(student, training.num_steps(len(examples)))
        auxiliary = self._auxiliary_losses()
        label_weight = 1.0 if config.mlm is None else 1 - config.mlm.weight
        objective = Objective(self.classifier.loss, auxiliary, label_weight, changes)
        is_plain = not auxiliary and not changes
        return tune(
            self.classifier,
            cached_loss(self.classifier, backbone_dropout=dropout) if is_plain else objective,
            examples, self.sets.dev, training,
            seed=config.seed, recorder=self.recorder, engine=self.engine, name=name,
            prepare=None if is_plain else objective.prepare,
            frozen_steps=config.prompt.frozen_steps if config.tune == "prompt" else {},
            backbone_dropout=dropout,
        )  # fmt: skip

    def _auxiliary_losses(self) -> list[AuxiliaryLoss]:
        losses: list[AuxiliaryLoss] = []
        if self.config.mlm is not None:
            losses.append(MlmLoss(self.classifier, self.sets.unlabeled, self.config.mlm))
        if self.config.label_conditioning is not None:
            losses.append(LabelConditioning(self.classifier, self.config.label_conditioning))
        return losses

    def _changes(self, student: PseudoLabelConfig | None, num_steps: int) -> list[ChangeBatch]:
        """Returns what happens to the items of each step: demonstrations, then soft labels and weights."""
        changes: list[ChangeBatch] = [] if self.demonstrations is None else [self.demonstrations.draw]
        if student is not None:
            weighted = WeightedPseudoLabels(
                student,
                self.sets.pseudo_labels.soft_labels,
                num_uniform_steps=round(student.meta_start * num_steps),
                labeled=self.classifier.items(self.sets.labeled),
                change_labeled=changes[0] if changes else lambda items, _: items,
                loss=self.classifier.loss,
                model=self.classifier.backbone.model,
                parameters=list(trainable_parameters(self.classifier).parameters.values()),
            )
            changes.append(weighted)
        return changes
