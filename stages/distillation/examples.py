"""What students learn from: examples with soft labels of the ensemble or of another student, and labeled examples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.common.data.soft_label_shards import confidences, load_rows
from stages.common.data.step_outputs import aligned, read_logits
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.models.averaging import average_members
from stages.common.problems import Problem, problem_of
from stages.common.seeds import python_rng
from stages.common.training.class_weights import example_weights, label_weights
from stages.common.training.evaluation import UNLABELED_FILE
from stages.distillation.config import SelectionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `soft_labels`: files of the soft-label stage; `teacher`: files of another
    student that labeled the unlabeled set, if any; `shards`: files of the stage that labels shards, if any. Then the
    student is trained on these.
    """

    data: Path
    soft_labels: Path
    teacher: Path | None = None
    shards: Path | None = None


@dataclass(frozen=True, slots=True)
class DistillationExample:
    """An example with the teacher's logits [C], or with its gold label: an index, or [C] of 0 and 1."""

    example: Example
    teacher: tuple[float, ...]
    gold: int | tuple[float, ...] | None = None

    @property
    def is_soft_labeled(self) -> bool:
        """Returns True if its label is that of a teacher."""
        return self.gold is None


class FitTargets(NamedTuple):
    """Targets for a classifier that is fitted to all examples at once: probabilities [n, C] and weights [n]."""

    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]


def training_examples(config: SelectionConfig, inputs: Inputs) -> list[DistillationExample]:
    """Returns the soft-labeled examples that are kept, and the labeled examples, if they have a weight.

    Raises:
        InputError: no soft-labeled example is left, or gold_weight is set and there are no labeled examples.
        DataError: the soft labels belong to other examples.
    """
    shards = inputs.shards
    soft = soft_labeled_examples(config, inputs) if shards is None else shard_examples(config, shards)
    return [*soft, *_gold_examples(config, inputs)]


def gold_weights(examples: Sequence[DistillationExample], config: SelectionConfig) -> NDArray[np.float64]:
    """Returns the weight of each label in the loss of the labeled examples, [C]."""
    gold = np.array([item.gold for item in examples if not item.is_soft_labeled])
    return label_weights(gold, len(config.labels), config.class_weights)


def fit_targets(examples: Sequence[DistillationExample], config: SelectionConfig) -> FitTargets:
    """Returns the targets of all examples. The labeled examples together count `gold_weight` of all."""
    problem, gold_weight = problem_of(config.labels, config.problem_type), config.gold_weight
    is_gold_n = np.array([not item.is_soft_labeled for item in examples])
    targets_nC = problem.probabilities(np.array([item.teacher for item in examples], dtype=np.float64))
    kind_weight_n = np.where(is_gold_n, gold_weight, 1 - gold_weight)
    kind_size_n = np.where(is_gold_n, is_gold_n.sum(), (~is_gold_n).sum())
    label_weight_n = np.ones(len(examples))
    if is_gold_n.any():
        gold = np.array([item.gold for item in examples if not item.is_soft_labeled])
        targets_nC[is_gold_n] = problem.targets(gold)
        label_weight_n[is_gold_n] = example_weights(gold, len(config.labels), config.class_weights)
    return FitTargets(targets_nC, len(examples) * label_weight_n * kind_weight_n / kind_size_n)


def select_confident(
    problem: Problem, teacher: NDArray[np.float64], keep_fraction: float, min_confidence: float
) -> list[int]:
    """Returns the rows of the examples to keep, in order.

    Args:
        problem: The labels.
        teacher: [n, C] logits.
        keep_fraction: Fraction of the examples of each predicted label to keep, the most confident first, at least one
            per label. The class ratio does not change. Of several labels, the rarest one counts.
        min_confidence: Minimum of the highest probability. Of several labels, of that of the least certain decision.
            Examples below it are not kept.
    """
    confidence = problem.confidence(problem.probabilities(teacher))
    predicted = problem.strata(problem.predict(teacher))
    rows: list[int] = confident_rows(confidence, predicted, keep_fraction, min_confidence).tolist()
    return rows


def confident_rows(
    confidence: NDArray[np.floating], predicted: NDArray[np.integer], keep_fraction: float, min_confidence: float
) -> NDArray[np.int64]:
    """`select_confident` for [n] confidences and [n] indices of the predicted labels."""
    kept = [np.empty(0, dtype=np.int64)]
    for label in np.unique(predicted):
        rows = np.flatnonzero(predicted == label)
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: math.ceil(round(keep_fraction * len(rows), 6))]
        kept.append(rows[confidence[rows] >= min_confidence])
    return np.sort(np.concatenate(kept))


def soft_labeled_examples(config: SelectionConfig, inputs: Inputs) -> list[DistillationExample]:
    """Returns the examples of the unlabeled set that are kept, with their soft labels."""
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    if not unlabeled_set:
        raise InputError(
            "distillation needs unlabeled examples.", "Set data.unlabeled or data.unlabeled_size.", key="data.unlabeled"
        )
    teachers = [inputs.soft_labels / "soft_labels.jsonl"]
    teachers += [inputs.teacher / UNLABELED_FILE] if inputs.teacher else []
    uids = [item.uid for item in unlabeled_set]
    logits = np.stack([aligned(read_logits(path, config.labels), uids) for path in teachers])
    problem = problem_of(config.labels, config.problem_type)
    teacher = logits[0]
    if len(logits) > 1:
        teacher = average_members(logits, np.ones(len(logits)), "probabilities", 1.0, problem)
    kept = select_confident(problem, teacher, config.keep_fraction, config.min_confidence)
    if not kept:
        raise _nothing_kept(config, float(problem.confidence(problem.probabilities(teacher)).max()))
    return [DistillationExample(unlabeled_set[row], tuple(teacher[row])) for row in kept]


def shard_examples(config: SelectionConfig, shards: Path) -> list[DistillationExample]:
    """Samples from the examples of all shards that are kept; only the sampled ones are in memory."""
    confidence, predicted = confidences(shards, config.labels)
    kept = confident_rows(confidence, predicted, config.keep_fraction, config.min_confidence)
    if not len(kept):
        raise _nothing_kept(config, float(confidence.max()))
    if config.max_student_examples is not None and len(kept) > config.max_student_examples:
        kept = kept[sorted(python_rng(config.seed, "shards").sample(range(len(kept)), config.max_student_examples))]
    return [DistillationExample(example, teacher) for example, teacher in load_rows(shards, kept, config.labels)]


class TeacherFacts(NamedTuple):
    """What a student takes from the ensemble in addition to its soft labels."""

    num_labeled: int
    """Labeled examples that the members learned from."""
    label_bias: NDArray[np.float64]
    """[C] what the student adds to the bias of each label, after its training."""


def teacher_facts(soft_labels: Path) -> TeacherFacts:
    """Reads the result of the soft-label stage in the folder of its files.

    An accepted result of code without biases has none. `[0.0]` adds nothing to any label.
    """
    result = json.loads((soft_labels / "result.json").read_text(encoding="utf-8"))
    return TeacherFacts(result["num_labeled"], np.array(result.get("label_bias", [0.0])))


def _gold_examples(config: SelectionConfig, inputs: Inputs) -> list[DistillationExample]:
    """Returns the labeled examples, if they have a weight."""
    if not config.gold_weight:
        return []
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError(
            f"gold_weight is {config.gold_weight}, but there are no labeled examples.",
            "Set gold_weight to 0, or add labeled examples.",
            key="distill.gold_weight",
        )
    no_teacher = (0.0,) * len(config.labels)
    gold = problem_of(config.labels, config.problem_type).gold_of(train_set).tolist()
    return [
        DistillationExample(item, no_teacher, tuple(label) if isinstance(label, list) else label)
        for item, label in zip(train_set, gold, strict=True)
    ]


def _nothing_kept(config: SelectionConfig, highest: float) -> InputError:
    return InputError(
        f"no soft-labeled example is left: their highest probability is {highest:.2f}.",
        f"Lower min_confidence (now {config.min_confidence}).",
        key="distill.min_confidence",
    )
