"""The soft-label stage: the ensemble of all members labels the unlabeled set.

Every member has already labeled the unlabeled set (stages/common/training/evaluation.py). This stage calibrates,
weights and averages their logits (stages/soft_labels/combination.py). Rows are joined on the uid of their example.
Letters in names of arrays: M members, n examples, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common import figures
from stages.common.data.step_outputs import aligned, read_logits, write_logits
from stages.common.errors import DataError
from stages.common.examples import Example, Label, load_examples
from stages.common.metrics.classification import EvaluationResult, Score, entropies, softmax
from stages.common.problems import MultiLabel, SingleLabel
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import log_test_scores
from stages.common.training.label_bias import fit_label_bias
from stages.soft_labels.agreement import Agreement, mean_agreement
from stages.soft_labels.combination import Combination, HeldOut
from stages.soft_labels.config import SoftLabelsConfig
from stages.soft_labels.suspects import find_suspects, write_suspects

NUM_DISAGREEMENTS = 30
"""Rows of the table of examples that members disagree about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `members`: files of every member."""

    data: Path
    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """How much a member counts."""

    member: str
    weight: float
    """Its share of the average; all shares add up to 1."""
    temperature: float
    """What divides its logits."""
    held_out_accuracy: float | None
    """Accuracy of the calibrated member on held-out labeled examples; None if nothing could be held out."""
    estimated_accuracy: float | None
    """The accuracy that decides its weight. With weights: label_model, it is also estimated from unlabeled data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFrequency:
    """How frequent a label is among the labeled examples and, as the ensemble estimates it, the unlabeled ones."""

    label: str
    labeled: float
    unlabeled: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of the ensemble on the test set and, if its labels are known, on the unlabeled set.

    Files: `soft_labels.jsonl` (uid, averaged logits by label), `test_logits.jsonl` and, if there are held-out logits
    and each example has one label, `suspects.jsonl` (labeled examples whose label is probably wrong).
    """

    unlabeled: Score | None
    dropped: tuple[str, ...]
    votes: tuple[Vote, ...]
    agreement: Agreement
    held_out_accuracy: float | None
    """Accuracy on the labeled set by members that did not learn from the example; None if it is unknown."""
    label_bias: tuple[float, ...]
    """[C] what students add to the bias of each label. The soft labels do not have it, the test logits do. With several
    labels per example the soft labels have the bias, and students add nothing.
    """
    label_frequencies: tuple[LabelFrequency, ...]
    num_suspects: int
    """Labeled examples whose label is probably wrong."""


def run(config: SoftLabelsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Averages the logits of all members on the unlabeled set and on the test set.

    Raises:
        DataError: the rows of a member belong to other examples.
    """
    del engine
    labels = config.labels
    unlabeled_set, test_set = (load_examples(inputs.data / f"{name}.jsonl") for name in ("unlabeled", "test"))
    results = [json.loads((member / "result.json").read_text(encoding="utf-8")) for member in inputs.members]
    combination = Combination.fit(config, inputs.members)
    problem = combination.problem
    unlabeled_MnC, test_MnC = (
        combination.calibrate(_member_logits(inputs.members, f"{name}_logits.jsonl", examples, labels))
        for name, examples in (("unlabeled", unlabeled_set), ("test", test_set))
    )
    held_out = combination.held_out
    bias_C = _label_bias(config, held_out)
    # a threshold of the ensemble is not one of its students, which are as certain as the labels that they learn from
    taught_C, students_C = (bias_C, 0 * bias_C) if isinstance(problem, MultiLabel) else (0 * bias_C, bias_C)
    soft_labels_nC = combination.average(unlabeled_MnC) + taught_C
    write_logits(out / "soft_labels.jsonl", unlabeled_set, soft_labels_nC, labels)
    test_nC = combination.average(test_MnC) + bias_C
    write_logits(out / "test_logits.jsonl", test_set, test_nC, labels)
    unlabeled = None
    if (inputs.data / "unlabeled_gold.jsonl").exists():
        gold = _gold_labels(inputs.data / "unlabeled_gold.jsonl", unlabeled_set)
        unlabeled = problem.score(soft_labels_nC, gold)
        recorder.log_metric("unlabeled/accuracy", unlabeled.accuracy)
    votes = _votes(config, combination)
    recorder.log_table("weights", [asdict(vote) for vote in votes])
    frequencies = tuple(
        LabelFrequency(label=label, labeled=round(float(labeled), 6), unlabeled=round(float(unlabeled), 6))
        for label, labeled, unlabeled in zip(
            labels, combination.frequencies.labeled, combination.frequencies.unlabeled, strict=True
        )
    )
    recorder.log_table("label_frequencies", [asdict(item) for item in frequencies])
    suspects: list[dict[str, Any]] = []
    if held_out is not None and isinstance(problem, SingleLabel):
        suspects = find_suspects(held_out, load_examples(inputs.data / "train.jsonl"), labels)
        write_suspects(out, suspects)
        recorder.log_table("suspects", suspects)
    test_decisions, unlabeled_decisions = (problem.decision_logits(item) for item in (test_MnC, unlabeled_MnC))
    recorder.log_figure("agreement", figures.agreement(test_decisions, config.members))
    if unlabeled_set:
        _log_entropy(softmax(problem.decision_logits(soft_labels_nC)), recorder)
        if isinstance(problem, SingleLabel):
            rows = disagreements(unlabeled_set, unlabeled_MnC, softmax(soft_labels_nC), labels)
            recorder.log_table("disagreements", rows)
    return Result(
        test=log_test_scores(test_nC, test_set, problem, recorder),
        unlabeled=unlabeled,
        dropped=config.dropped,
        votes=votes,
        agreement=Agreement(
            test=mean_agreement(test_decisions, combination.weights),
            unlabeled=mean_agreement(unlabeled_decisions, combination.weights),
        ),
        label_frequencies=frequencies,
        num_suspects=len(suspects),
        held_out_accuracy=held_out.accuracy(bias_C) if held_out else None,
        label_bias=tuple(round(float(value), 6) for value in students_C),
        num_labeled=max(result["num_labeled"] for result in results),
        num_unlabeled=len(unlabeled_set),
        trainable_parameters=sum(result["trainable_parameters"] for result in results),
    )


def _votes(config: SoftLabelsConfig, combination: Combination) -> tuple[Vote, ...]:
    """Returns the weight of each member, and what it follows from."""
    return tuple(
        Vote(
            member=name,
            weight=round(float(weight), 6),
            temperature=round(calibration.scaling.temperature, 6),
            held_out_accuracy=accuracy,
            estimated_accuracy=estimated,
        )
        for name, weight, calibration, accuracy, estimated in zip(
            config.members,
            combination.weights,
            combination.calibrations,
            combination.accuracies,
            combination.estimated,
            strict=True,
        )
    )


def _label_bias(config: SoftLabelsConfig, held_out: HeldOut | None) -> NDArray[np.float64]:
    """Returns the bias of each label, [C]."""
    if config.label_bias == "none":
        return np.zeros(len(config.labels))
    logits, gold = (held_out.logits, held_out.gold) if held_out else (None, np.zeros(0))
    return fit_label_bias(logits, gold, config.label_bias)


def _member_logits(
    members: Sequence[Path], name: str, examples: Sequence[Example], labels: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Returns the logits of each member [n, C], in the order of `examples`."""
    uids = [item.uid for item in examples]
    return [aligned(read_logits(member / name, labels), uids) for member in members]


def _gold_labels(path: Path, examples: Sequence[Example]) -> list[Label | None]:
    """Returns the gold label of each example.

    Raises:
        DataError: the file has no label for an example.
    """
    labels = {item.uid: item.label for item in load_examples(path)}
    missing = [item.uid for item in examples if labels.get(item.uid) is None]
    if missing:
        raise DataError(f"{path} has no gold label for the uid {missing[0]!r}.", "Run the split step again.")
    return [labels[item.uid] for item in examples]


def _log_entropy(probabilities: NDArray[np.float64], recorder: Recorder) -> None:
    """Records the entropy of the soft labels: its mean, and the figure `entropy`.

    Args:
        probabilities: [d, K] of the decisions.
        recorder: Gets both.
    """
    entropy = entropies(probabilities)
    recorder.log_metric("unlabeled/entropy", float(entropy.mean()))
    recorder.log_figure("entropy", figures.entropy(entropy))


def disagreements(
    unlabeled_set: Sequence[Example],
    member_logits: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns the examples with the fewest votes for the label with the most votes. Ties: the least confident first.

    Args:
        unlabeled_set: [n] unlabeled examples.
        member_logits: [M, n, C] logits of the members.
        probabilities: [n, C] soft labels.
        labels: [C] names.
    """
    predicted_Mn = member_logits.argmax(axis=2)
    votes_nC = np.stack([(predicted_Mn == index).sum(axis=0) for index in range(len(labels))], axis=1)
    order = np.lexsort((probabilities.max(axis=1), votes_nC.max(axis=1)))[:NUM_DISAGREEMENTS]
    return [
        {
            **unlabeled_set[row].fields,
            "votes": ", ".join(f"{labels[index]} {votes_nC[row, index]}" for index in _largest(votes_nC[row])),
            "soft_label": ", ".join(
                f"{labels[index]} {probabilities[row, index]:.2f}" for index in _largest(probabilities[row])
            ),
        }
        for row in order
    ]


def _largest(values: NDArray[Any]) -> list[int]:
    """Returns the indices of the three largest values, or fewer: only those above 0. The largest comes first."""
    return [int(index) for index in (-values).argsort(kind="stable")[:3] if values[index] > 0]
