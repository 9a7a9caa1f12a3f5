"""How the logits of the members become the logits of the ensemble: calibrated per member, weighted, averaged.

Everything is fitted to what the steps of the members wrote: held-out logits of the labeled set, and logits of texts
without content and of the unlabeled set. Letters in names of arrays: M members, n examples, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.data.step_outputs import LogitRows, aligned, read_logits
from stages.common.models.averaging import Scaling, average_members, calibrate, member_weights
from stages.common.models.config import Calibration
from stages.common.problems import Gold, Problem, problem_of
from stages.common.training.evaluation import HELD_OUT_FILE, UNLABELED_FILE
from stages.soft_labels.config import EnsembleConfig, LabelingConfig
from stages.soft_labels.label_frequencies import estimate_frequencies
from stages.soft_labels.label_model import AGREEMENT_EXAMPLES, estimate_accuracies

_REFERENCES: dict[Calibration, str] = {
    "contextual": "content_free_logits.jsonl",
    "unlabeled": "unlabeled_logits.jsonl",
}


@dataclass(frozen=True, slots=True)
class MemberCalibration:
    """Calibrates the logits of one member."""

    reference: NDArray[np.float64] | None
    """[m, C] logits that show its prior preference for a label."""
    scaling: Scaling

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns calibrated logits, [n, C]."""
        return self.scaling(logits if self.reference is None else calibrate(logits, self.reference))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Predictions of the ensemble for labeled examples, by members that did not learn from them."""

    uids: tuple[str, ...]
    """[n] uids of the examples."""
    logits: NDArray[np.float64]
    """[n, C] logits of the ensemble."""
    gold: Gold
    """[n] indices of the labels, or [n, C] of 0 and 1."""
    problem: Problem

    def accuracy(self, bias_C: NDArray[np.float64]) -> float:
        """Returns the accuracy, from 0 to 1. `bias_C`: what is added to the logits of each label."""
        return _accuracy(self.problem, self.logits + bias_C, self.gold)

    @property
    def scaling(self) -> Scaling:
        """Returns the scaling that makes the ensemble as certain as it is right."""
        return _scaling(self.problem, self.logits, self.gold, has_bias=False)


@dataclass(frozen=True, slots=True)
class LabelFrequencies:
    """How frequent each label is among those of the labeled and of the unlabeled examples, [C]; both sums are 1."""

    labeled: NDArray[np.float64]
    unlabeled: NDArray[np.float64]
    temperature: float = 1.0
    """What makes the logits of the ensemble as certain as they are right."""

    @property
    def bias(self) -> NDArray[np.float64]:
        """Returns what the logits of the ensemble, which learned from the labeled data, lack on unlabeled data, [C]."""
        bias_C: NDArray[np.float64] = self.temperature * np.log(self.unlabeled / self.labeled)
        return bias_C


@dataclass(frozen=True, slots=True)
class Combination:
    """The fitted average over all members."""

    config: EnsembleConfig
    problem: Problem
    calibrations: tuple[MemberCalibration, ...]
    """[M] calibration of each member."""
    accuracies: tuple[float | None, ...]
    """[M] accuracy of each calibrated member on held-out examples; None if nothing could be held out."""
    estimated: tuple[float | None, ...]
    """[M] accuracy of each member that decides its weight: `accuracies`, or the estimate of the label model."""
    weights: NDArray[np.float64]
    """[M] weights whose sum is 1."""
    frequencies: LabelFrequencies
    """How frequent the labels are among labeled and unlabeled data."""
    held_out: HeldOut | None
    """None if a member has no held-out logits."""

    @classmethod
    def fit(cls, config: LabelingConfig, members: Sequence[Path]) -> Combination:
        """Fits calibrations, weights and label frequencies. `members`: [M] files of the members."""
        ensemble, problem = config.ensemble, problem_of(config.labels, config.problem_type)
        held_out = [_read_held_out(member, config.labels) for member in members]
        calibrations = []
        for member, known, has_prior in zip(members, held_out, config.have_priors, strict=True):
            calibration = MemberCalibration(_read_reference(config, member) if has_prior else None, Scaling())
            if ensemble.scaling == "held_out" and known is not None:
                gold = problem.gold(known.gold)
                scaling = _scaling(problem, calibration(known.logits), gold, has_bias=has_prior)
                calibration = replace(calibration, scaling=scaling)
            calibrations.append(calibration)
        num_examples = max((len(known.uids) for known in held_out if known is not None), default=0)
        accuracies = [
            None if known is None else _accuracy(problem, calibration(known.logits), problem.gold(known.gold))
            for calibration, known in zip(calibrations, held_out, strict=True)
        ]
        estimated = accuracies
        if ensemble.weights == "label_model":
            unlabeled_MnC = _calibrated_unlabeled(members, calibrations, config.labels)
            estimated = estimate_accuracies(unlabeled_MnC, accuracies, config.groups, num_examples)
            num_examples += AGREEMENT_EXAMPLES
        weights = member_weights(ensemble.weights, estimated, config.groups, num_examples, len(config.labels))
        labeled_C = _labeled_frequencies(held_out, problem)
        as_labeled = LabelFrequencies(labeled_C, labeled_C)
        combination = cls(
            ensemble, problem, tuple(calibrations), tuple(accuracies), tuple(estimated), weights, as_labeled, None
        )
        combination = replace(combination, held_out=combination._held_out(held_out))
        if ensemble.label_frequencies == "labeled":
            return combination
        logits_nC = combination.average(_calibrated_unlabeled(members, calibrations, config.labels))
        certainty = combination.held_out.scaling if combination.held_out else Scaling()
        unlabeled_C = estimate_frequencies(certainty(logits_nC), labeled_C)
        return replace(combination, frequencies=LabelFrequencies(labeled_C, unlabeled_C, certainty.temperature))

    def __call__(self, member_logits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Returns the logits of the ensemble, [n, C]. `member_logits`: M arrays [n, C], not calibrated."""
        return self.average(self.calibrate(member_logits))

    def calibrate(self, member_logits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Returns the calibrated logits of the members, [M, n, C]."""
        return np.stack([item(logits) for item, logits in zip(self.calibrations, member_logits, strict=True)])

    def average(self, calibrated_MnC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the logits of the ensemble, [n, C], from calibrated logits of the members."""
        averaged_nC = average_members(
            calibrated_MnC, self.weights, self.config.average, self.config.temperature, self.problem
        )
        return averaged_nC + self.frequencies.bias

    def _held_out(self, members: Sequence[LogitRows | None]) -> HeldOut | None:
        known = [rows for rows in members if rows is not None]
        if len(known) < len(members):
            return None
        logits = self([aligned(rows, known[0].uids) for rows in known])
        return HeldOut(known[0].uids, logits, self.problem.gold(known[0].gold), self.problem)


def _calibrated_unlabeled(
    members: Sequence[Path], calibrations: Sequence[MemberCalibration], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Returns the calibrated logits of the unlabeled set, [M, n, C], with its examples in one order."""
    rows = [read_logits(member / UNLABELED_FILE, labels) for member in members]
    return np.stack([item(aligned(its_rows, rows[0].uids)) for item, its_rows in zip(calibrations, rows, strict=True)])


def _read_held_out(member: Path, labels: Sequence[str]) -> LogitRows | None:
    """Reads the held-out logits of a member; None if it has none."""
    path = member / HELD_OUT_FILE
    return read_logits(path, labels) if path.exists() else None


def _labeled_frequencies(held_out: Sequence[LogitRows | None], problem: Problem) -> NDArray[np.float64]:
    """Returns the frequency of each label among the labeled examples, [C], smoothed by one example per label."""
    counts = [problem.targets(problem.gold(rows.gold)).sum(axis=0) for rows in held_out if rows is not None]
    smoothed_C = max(counts, key=lambda counts_C: int(counts_C.sum()), default=np.zeros(len(problem.labels))) + 1.0
    frequencies: NDArray[np.float64] = smoothed_C / smoothed_C.sum()
    return frequencies


def _accuracy(problem: Problem, logits: NDArray[np.float64], gold: Gold) -> float:
    return round(float(problem.is_right(logits, gold).mean()), 6)


def _scaling(problem: Problem, logits: NDArray[np.float64], gold: Gold, *, has_bias: bool) -> Scaling:
    """Returns the scaling with which all decisions are as certain as they are right."""
    return Scaling.fit(problem.decision_logits(logits), problem.decisions(gold), has_bias=has_bias)


def _read_reference(config: LabelingConfig, member: Path) -> NDArray[np.float64] | None:
    """Reads the logits [m, C] that calibrate a member; None without calibration."""
    file = _REFERENCES.get(config.ensemble.calibration)
    return read_logits(member / file, config.labels).logits if file else None
