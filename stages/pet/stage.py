"""The PET stage: trains one sub-model, which is one pattern with one seed, on the labeled examples.

Schick & Schütze, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference", EACL
2021. With `tune: none` nothing is trained: the stage evaluates the pattern zero-shot, or with demonstrations before
each text. In a later generation of iPET (section 3.4) the training set grows by examples that other sub-models
labeled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from stages.common.data.split_files import load_examples, write_examples
from stages.common.data.step_outputs import write_losses
from stages.common.examples import Example
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.demonstrations import prepend_demonstrations, sample_demonstrations
from stages.common.models.cloze.mlm import with_mlm
from stages.common.models.cloze.prefix_cache import cached_loss
from stages.common.patterns.verbalizers import found_words
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.peft_format import load_trained_prompt
from stages.common.prompts.submodels import SubModel, new_submodel
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import Member, evaluate_on_test, write_member_logits
from stages.common.training.loop import train
from stages.pet.config import PetConfig
from stages.pet.generations import select_examples


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `words`: files of the verbalizer search, if the task has no words of its own;
    `teachers`: files of the sub-models of the generation before; `pretrained`: files of the prompt-pretraining stage,
    if the prompt starts there; `together`: files of the stage that trained the prompt with others, if one did.
    """

    data: Path
    verbalizer: Path | None = None
    teachers: tuple[Path, ...] = ()
    pretrained: Path | None = None
    batched: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the sub-model. `train_accuracy_before_training` is the ensemble's accuracy weight; `num_drawn` counts the texts
    that other sub-models labelled.

    Files: the sub-model (see stages/common/prompts/submodels.py), those of a member (see stages/common/training/evaluation.py),
    `losses.json` and, in a later generation, `pseudo_labeled.jsonl`.
    """

    final_loss: float | None
    num_pseudo_labeled: int = 0


def run(config: PetConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the sub-model, labels test set and pile, and writes all of it to `out`."""

    task = config.task if inputs.verbalizer is None else config.task.with_words(found_words(inputs.verbalizer))
    train_set = load_examples(inputs.data / "train.jsonl")
    drawn = _pseudo_labeled(config, inputs, train_set, out, recorder)
    with new_submodel(config.backbone, config.tune, config.lora, config.seed, engine) as submodel:
        backbone = submodel.backbone
        if config.tune == "prompt":
            submodel.prompt = initialize_prompt(
                config.prompt, task, config.pattern, backbone, config.seed, inputs.pretrained
            )
        classifier = ClozeClassifier.of(
            task, config.pattern, backbone, config.backbone, submodel.prompt, loss_kind=config.loss, engine=engine
        )
        if config.shots:
            _prepend_demonstrations(config, classifier, train_set, recorder)
        num_trained = sum(parameter.numel() for parameter in submodel.parameters.values())
        before = _accuracy(classifier, train_set, recorder, "labelled set before training")
        if inputs.batched is None:
            losses = _train(config, inputs, classifier, submodel, [*train_set, *drawn], recorder, engine)
        else:
            trained = load_trained_prompt(inputs.batched, config.name, backbone)
            submodel.prompt = classifier.prompt = trained.prompt
            losses = [trained.final_loss]
        write_losses(out, losses)
        log_inspection(submodel.prompt, backbone, recorder)
        submodel.save(task, config.pattern, out)
        if losses:
            recorder.log_metric("train/accuracy", _accuracy(classifier, train_set, recorder, "labelled set"))
        finish = write_member_logits if config.label_unlabeled else evaluate_on_test
        test = finish(classifier, task.labels, inputs.data, out, recorder)
    recorder.log_metric("train/accuracy_before_training", before)
    return Result(
        test=test,
        train_accuracy_before_training=before,
        final_loss=losses[-1] if losses else None,
        num_labeled=len(train_set) if losses else config.shots * len(task.labels),
        num_unlabeled=len(drawn),
        num_pseudo_labeled=len(drawn),
        trainable_parameters=num_trained,
    )


def _pseudo_labeled(
    config: PetConfig, inputs: Inputs, train_set: list[Example], out: Path, recorder: Recorder
) -> list[Example]:
    """The texts of a later generation, labelled by the teachers."""
    if config.growth is None:
        return []

    pile = load_examples(inputs.data / "unlabeled.jsonl")
    drawn = select_examples(config.growth, train_set, pile, inputs.teachers, config.task.labels, config.seed)
    write_examples(out / "pseudo_labeled.jsonl", drawn)
    num_wanted = sum(config.growth.targets(config.task.labels, train_set).values())
    recorder.log_metric("pseudo_labels/missing", num_wanted - len(drawn))
    recorder.log_table("pseudo_labeled", [{**item.fields, "label": item.label} for item in drawn[:100]])
    return drawn


def _prepend_demonstrations(
    config: PetConfig, classifier: ClozeClassifier, train_set: list[Example], recorder: Recorder
) -> None:

    demonstrations = sample_demonstrations(train_set, config.task.labels, config.shots, config.seed)
    recorder.log_table("demonstrations", [{**item.fields, "label": item.label} for item in demonstrations])
    prepend_demonstrations(classifier, demonstrations)


def _accuracy(classifier: ClozeClassifier, examples: list[Example], recorder: Recorder, phase: str) -> float:
    if not examples:
        return 0.0
    return classifier.evaluate(examples, recorder, phase).score.accuracy


def _train(
    config: PetConfig,
    inputs: Inputs,
    classifier: ClozeClassifier,
    submodel: SubModel,
    examples: list[Example],
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains; returns the loss of every step."""
    if config.training is None:
        return []

    dev_set = load_examples(inputs.data / "dev.jsonl") if config.training.early_stopping else []
    validate = partial(classifier.validate, dev_set, recorder) if dev_set else None
    loss_of: Callable[[list[LabeledCloze]], Tensor] = cached_loss(classifier)
    if config.mlm is not None:
        pile = load_examples(inputs.data / "unlabeled.jsonl")
        loss_of = with_mlm(classifier, pile, config.mlm)
    if submodel.prompt is None:
        submodel.backbone.model.train()
    return train(
        classifier.items(examples), loss_of, submodel.parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
        frozen_steps=config.prompt.frozen_steps if submodel.prompt is not None else {},
    )  # fmt: skip
