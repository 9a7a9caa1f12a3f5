"""The PET stage: trains one sub-model, which is one pattern with one seed, on the labeled examples.

Schick & Schütze, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference", EACL
2021. With `tune: none` nothing is trained: the stage evaluates the pattern zero-shot, or with demonstrations. In a
later generation of iPET (section 3.4) the training set grows by examples that other sub-models labeled
(stages/pet/pseudo_labels.py); a student of self-training learns from its predecessor (stages/pet/self_training.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.common.data.groups import group_numbers
from stages.common.data.step_outputs import write_losses
from stages.common.examples import Example, label_indices, load_examples, table_rows, write_examples
from stages.common.models.averaging import Scaling, cross_entropies
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.demonstrations import Demonstrations
from stages.common.patterns.config import Task
from stages.common.patterns.search_results import searched_task
from stages.common.problems import problem_of
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.loader import SubModel, new_submodel
from stages.common.prompts.peft_format import load_trained_prompt
from stages.common.prompts.tuning import num_trainable_parameters
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.bf16_margins import log_bf16_margins
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import Member, evaluate_on_test, held_out_scores, write_member_logits
from stages.pet.config import PetConfig
from stages.pet.pseudo_labels import select_examples
from stages.pet.self_training import PseudoLabels, pseudo_labels
from stages.pet.training import TrainingSets, train_submodel

MAX_LOGGED = 100
"""Rows of the table of pseudo-labeled examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `verbalizer`: files of the verbalizer search, if the task has no label words;
    `pattern_search`: files of the pattern search, if the recipe has one; `teachers`: files of sub-models of the
    generation before, of which a student has one; `pretrained`: files of prompt pretraining, for init: ppt; `batched`:
    files of batched prompt tuning, if the prompt was trained there.
    """

    data: Path
    verbalizer: Path | None = None
    pattern_search: Path | None = None
    teachers: tuple[Path, ...] = ()
    pretrained: Path | None = None
    batched: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the sub-model. `num_pseudo_labeled` counts the examples that other sub-models labeled.

    Files: the sub-model (stages/common/prompts/loader.py), those of a member
    (stages/common/training/evaluation.py), `losses.json` and, in a later generation, `pseudo_labeled.jsonl`.
    """

    final_loss: float | None
    num_pseudo_labeled: int = 0


def run(config: PetConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the sub-model, labels the test set and the unlabeled set, and writes all files to `out`."""
    task = searched_task(config.task, verbalizer=inputs.verbalizer, pattern_search=inputs.pattern_search)
    problem = problem_of(task.labels, task.problem_type)
    train_set = load_examples(inputs.data / "train.jsonl")
    sets = TrainingSets(
        train_set,
        _pseudo_labels(config, inputs, train_set, out, recorder),
        load_examples(inputs.data / "unlabeled.jsonl") if config.mlm else (),
        load_examples(inputs.data / "dev.jsonl"),
    )
    held_out = _cross_validate(config, inputs, task, sets, recorder, engine)
    with _new_classifier(config, inputs, task, train_set, engine) as (submodel, classifier, demonstrations):
        num_parameters = num_trainable_parameters(classifier)
        before = classifier.predict(train_set, recorder, "labeled examples before training") if train_set else None
        losses: list[float] = []
        if inputs.batched is not None:
            trained = load_trained_prompt(inputs.batched, config.name, submodel.backbone)
            submodel.prompt = classifier.prompt = trained.prompt
            losses = [trained.final_loss]
        elif before is None or held_out is None or not _is_worse(held_out, before, train_set, task.labels):
            losses = train_submodel(config, classifier, demonstrations, sets, recorder, engine)
        else:
            held_out = before
        write_losses(out, losses)
        log_inspection(submodel.prompt, submodel.backbone, recorder)
        submodel.save(task, config.pattern, out)
        if demonstrations is not None:
            demonstrations.save(out)
        if losses:
            score = classifier.evaluate(train_set, recorder, "labeled examples").score if train_set else None
            recorder.log_metric("train/accuracy", score.accuracy if score else 0.0)
        if config.num_folds is None:
            held_out = before
        if config.label_unlabeled:
            test = write_member_logits(classifier, problem, inputs.data, out, recorder, held_out)
        else:
            test = evaluate_on_test(classifier, problem, inputs.data, out, recorder)
        log_bf16_margins(classifier, out, task.labels, recorder)
    return Result(
        test=test,
        **held_out_scores(held_out, train_set, problem),
        final_loss=losses[-1] if losses else None,
        num_labeled=len(train_set) if losses else 0,
        num_unlabeled=len(sets.pseudo_labels.examples),
        num_pseudo_labeled=len(sets.pseudo_labels.examples),
        trainable_parameters=num_parameters,
    )


class _NewSubModel(NamedTuple):
    """An untrained sub-model, the classifier of its pattern, and its demonstrations, if any."""

    submodel: SubModel
    classifier: ClozeClassifier
    demonstrations: Demonstrations | None


@contextmanager
def _new_classifier(
    config: PetConfig, inputs: Inputs, task: Task, labeled: Sequence[Example], engine: Engine
) -> Iterator[_NewSubModel]:
    """Yields an untrained sub-model. `labeled`: its labeled examples, from which demonstrations are sampled."""
    with new_submodel(config.backbone, config, config.seed, engine) as submodel:
        if config.tune == "prompt":
            submodel.prompt = initialize_prompt(
                config.prompt, task, config.pattern, submodel.backbone, seed=config.seed, pretrained=inputs.pretrained
            )
        classifier = ClozeClassifier.of(
            task, config.pattern, submodel.backbone, config.backbone, submodel.prompt,
            loss_kind=config.loss, engine=engine,
        )  # fmt: skip
        demonstrations = None
        if config.demonstrations is not None:
            demonstrations = Demonstrations(classifier, config.demonstrations, labeled, config.seed)
        yield _NewSubModel(submodel, classifier, demonstrations)


def _cross_validate(
    config: PetConfig, inputs: Inputs, task: Task, sets: TrainingSets, recorder: Recorder, engine: Engine
) -> NDArray[np.float64] | None:
    """Returns held-out logits [n, C]: each fold trains the sub-model on the other folds and the pseudo-labels."""
    if config.num_folds is None:
        return None
    num_folds, train_set = config.num_folds, sets.labeled

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        recorder.log_progress(fold, num_folds, phase="folds of the cross-validation")
        labeled = [train_set[row] for row in fitted]
        with _new_classifier(config, inputs, task, labeled, engine) as (_, classifier, demonstrations):
            fold_sets = replace(sets, labeled=labeled)
            train_submodel(config, classifier, demonstrations, fold_sets, NullRecorder(), engine, name=f"fold-{fold}")
            return classifier.predict([train_set[row] for row in held_out], NullRecorder(), "")

    gold = label_indices(train_set, task.labels)
    groups = group_numbers(train_set, task.fields)
    return held_out_logits(gold, len(task.labels), num_folds, fit_and_predict, groups=groups)


def _is_worse(
    trained: NDArray[np.float64], untrained: NDArray[np.float64], train_set: Sequence[Example], labels: Sequence[str]
) -> bool:
    """Returns True if the trained model predicts held-out examples worse than the untrained one, each rescaled.

    The models of the folds learn from fewer examples than the sub-model itself, so a loss that is higher by less than
    its standard error does not count.
    """
    gold = np.array(label_indices(train_set, labels))
    losses = [
        cross_entropies(Scaling.fit(logits, gold, has_bias=True)(logits), gold) for logits in (trained, untrained)
    ]
    difference = losses[0] - losses[1]
    return bool(difference.mean() > difference.std(ddof=1) / math.sqrt(len(difference)))


def _pseudo_labels(
    config: PetConfig, inputs: Inputs, train_set: Sequence[Example], out: Path, recorder: Recorder
) -> PseudoLabels:
    """Returns the examples that the teachers labeled; none in the first generation."""
    labels = config.task.labels
    if config.growth is None and config.student is None:
        return PseudoLabels([], {})
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    if config.student is not None:
        [teacher] = inputs.teachers
        selected = pseudo_labels(config.student, unlabeled_set, teacher, labels, seed=config.seed)
    else:
        assert config.growth is not None
        examples = select_examples(config.growth, train_set, unlabeled_set, inputs.teachers, labels, seed=config.seed)
        num_required = sum(config.growth.targets(labels, train_set).values())
        recorder.log_metric("pseudo_labels/missing", num_required - len(examples))
        selected = PseudoLabels(examples, {})
    write_examples(out / "pseudo_labeled.jsonl", selected.examples)
    recorder.log_table("pseudo_labeled", table_rows(selected.examples[:MAX_LOGGED]))
    return selected
