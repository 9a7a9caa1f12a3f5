"""Suggestions for the next experiment: rules over the results of a run, each with the number that supports it.

The rules read results only. A rule applies only if its number exceeds the noise of the test set. Suggestions have not
been tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.comparisons import RowComparison
from pipelines.report.config import MeasuredStep
from pipelines.report.delivery import CLASSIFIER_ROWS
from pipelines.report.leaderboard import MEMBER_ROWS, Row
from stages.common.config import LabelBias
from stages.distillation.config import MIN_UNLABELED

LARGE_GAP = 0.03
"""Accuracy that a student lacks compared with its teachers, or that training lost, to be reported."""
GUESSING_MCC = 0.1
"""Matthews correlation up to which a pattern guesses. It is 0 for guessing, for classes of any size."""
LARGE_STD = 0.03
LARGE_LEAK = 0.01
LOST_AGREEMENT = 0.05
"""Agreement of members on unlabeled texts below that on test texts, to be reported."""
MANY_CUT = 0.1
"""Fraction of cut texts to be reported."""
WIDE_INTERVAL = 0.05
"""Half width of a 95% interval that hides differences of a few points."""
POOR_CALIBRATION = 0.1
MISSED_LABELS = 0.2
"""Accuracy minus macro-F1 from which rare labels are missed."""
SMALL_MACRO_F1_GAIN = 0.02
"""Macro-F1 above that of a single label up to which the other labels are missed."""
SMALL_GAIN = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A recommended next experiment."""

    rule: str
    """Name of the rule."""
    subject: str
    """The row or step."""
    evidence: str
    """The observation, with its number."""
    action: str
    """What to try."""
    is_warning: bool = False
    """Whether the results are useless or wrong, so that a run prints it."""


@dataclass(frozen=True, slots=True)
class RunResults:
    """What the rules read. `results` are JSON values by step name."""

    rows: Sequence[Row]
    comparisons: Sequence[RowComparison]
    steps: Mapping[str, MeasuredStep]
    results: Mapping[str, Mapping[str, Any]]
    label_bias: LabelBias = "none"

    @property
    def has_label_sets(self) -> bool:
        """Returns True if the examples of the first task have any number of labels."""
        return any(row.micro_f1 is not None for row in self.rows)

    def label_counts(self, name: str) -> Mapping[str, int]:
        """Returns label -> number of examples in a set of the first task; empty if it is unknown."""
        splits = [result["label_counts"] for result in self.results.values() if "label_counts" in result]
        counts: Mapping[str, int] = splits[0].get(name, {}) if splits else {}
        return counts

    @property
    def num_labeled(self) -> int:
        """Returns the number of labeled examples of the first task; 0 if it is unknown."""
        return next((result["num_train"] for result in self.results.values() if "label_counts" in result), 0)

    @property
    def remedy_for_rare_labels(self) -> str:
        """Returns what makes classifiers predict rare labels more often."""
        if self.label_bias == "none":
            return "Set label_bias: macro_f1."
        if self.has_label_sets:
            return "Label more texts of rare labels."
        return "Label more texts of rare labels: clozeline select proposes some."

    def of_kind(self, kind: str) -> list[Row]:
        """Returns the rows of a kind."""
        return [row for row in self.rows if row.kind == kind]

    def label(self, row: Row, name: str) -> str:
        """Returns a label of the steps of a row; empty if they do not have it."""
        return self.steps[row.steps[0]].labels.get(name, "")

    def members(self) -> list[Row]:
        """Returns the rows that vote in the ensemble: of sub-models, those of the last generation."""
        rows = [row for row in self.rows if row.kind in MEMBER_ROWS]
        last: dict[str, int] = {}
        for row in rows:
            member = self.label(row, "member")
            last[member] = max(last.get(member, 0), int(self.label(row, "generation") or 0))
        return [row for row in rows if int(self.label(row, "generation") or 0) == last[self.label(row, "member")]]


def suggest(run: RunResults) -> tuple[Suggestion, ...]:
    """Returns the suggestions of all rules, those about wrong numbers first."""
    return tuple(suggestion for rule in RULES for suggestion in rule(run))


def leaking_test_set(run: RunResults) -> Iterator[Suggestion]:
    """Test examples in the training files raise the accuracy of every row."""
    for name, result in run.results.items():
        seen, size = result.get("num_test_seen") or 0, result.get("num_test") or 0
        if size and seen / size >= LARGE_LEAK:
            yield Suggestion(
                rule="leak",
                subject=name,
                evidence=f"{seen:,} of {size:,} test examples ({seen / size:.1%}) are also in the training files.",
                action="Remove these examples from one of the files: they raise all accuracies of this task.",
                is_warning=True,
            )


def small_test_set(run: RunResults) -> Iterator[Suggestion]:
    """A small test set cannot separate rows."""
    row = next((row for kind in ("student", "ensemble", "baseline") for row in run.of_kind(kind)), None)
    if row is None:
        return
    half_width = 1.96 * math.sqrt(row.accuracy.mean * (1 - row.accuracy.mean) / row.num_test)
    if half_width > WIDE_INTERVAL:
        yield Suggestion(
            rule="small_test",
            subject=row.name,
            evidence=f"With {row.num_test:,} test examples, an accuracy of {row.accuracy.mean:.1%} has an error of "
            f"± {100 * half_width:.1f} points (95% interval).",
            action="Use a larger test set before you compare rows that differ by a few points.",
        )


def other_domain(run: RunResults) -> Iterator[Suggestion]:
    """Members that agree less on the unlabeled set than on the test set."""
    for name, result in run.results.items():
        test, unlabeled = (result.get("agreement", {}).get(key) for key in ("test", "unlabeled"))
        if run.steps[name].kind != "soft_labels" or test is None or unlabeled is None:
            continue
        sizes = result["test"]["num_examples"], result["num_unlabeled"]
        # the variance of a value between 0 and 1 with the mean p is at most p (1 - p)
        error = math.sqrt(sum(mean * (1 - mean) / size for mean, size in zip((test, unlabeled), sizes, strict=True)))
        if test - unlabeled > max(LOST_AGREEMENT, 3 * error):
            yield Suggestion(
                rule="other_domain",
                subject=name,
                evidence=f"Members agree on {test:.1%} of the votes about test examples, but on {unlabeled:.1%} about "
                "unlabeled examples. These are probably texts of another domain.",
                action="Use unlabeled texts from the source that the classifier will read.",
            )


def other_frequencies(run: RunResults) -> Iterator[Suggestion]:
    """A label that is more frequent among the unlabeled than among the labeled examples."""
    for name, result in run.results.items():
        frequencies = result.get("label_frequencies", ())
        most = max(frequencies, key=lambda item: item["unlabeled"] - item["labeled"], default=None)
        if run.steps[name].kind != "soft_labels" or most is None or most["unlabeled"] == most["labeled"]:
            continue
        yield Suggestion(
            rule="other_frequencies",
            subject=name,
            evidence=f"About {most['unlabeled']:.0%} of the unlabeled examples have the label {most['label']!r}, but "
            f"{most['labeled']:.0%} of the labeled ones. The soft labels, and so the students, account for this.",
            action="If the classifier will read texts with other frequencies, set ensemble.label_frequencies: labeled.",
        )


def constant_predictions(run: RunResults) -> Iterator[Suggestion]:
    """Classifiers that predict (almost) only the most frequent label. One suggestion for the worst."""
    rows = run.of_kind("student") or [row for row in run.rows if row.kind in CLASSIFIER_ROWS]
    worst = min(rows, key=lambda row: row.macro_f1.mean, default=None)
    counts = run.label_counts("test")
    if worst is None or len(counts) < 2 or run.has_label_sets:
        return
    most = max(counts, key=counts.__getitem__)
    share = counts[most] / sum(counts.values())
    constant = 2 * share / (1 + share) / len(counts)  # F1 of this label, and 0 for the others
    if worst.macro_f1.mean < constant + SMALL_MACRO_F1_GAIN:
        yield Suggestion(
            rule="constant_predictions",
            subject=worst.name,
            evidence=f"{worst.name} is no better than always predicting {most!r}: its macro-F1 is "
            f"{worst.macro_f1.mean:.1%}, and that of this label alone {constant:.1%} (accuracy: {share:.1%}).",
            action=run.remedy_for_rare_labels,
            is_warning=True,
        )


def missed_rare_labels(run: RunResults) -> Iterator[Suggestion]:
    """Classifiers that hardly ever predict rare labels, which accuracy does not show. One suggestion for the worst."""
    rows = [row for kind in ("student", "baseline") for row in run.of_kind(kind)]
    counts = run.label_counts("train")
    worst = max(rows, key=lambda row: row.headline[1].mean - row.macro_f1.mean, default=None)
    if worst is None or len(counts) < 2 or any(constant_predictions(run)):
        return
    rarest, (name, metric) = min(counts, key=counts.__getitem__), worst.headline
    if metric.mean - worst.macro_f1.mean > MISSED_LABELS:
        yield Suggestion(
            rule="rare_labels",
            subject=worst.name,
            evidence=f"{worst.name} has {'an' if name == 'accuracy' else 'a'} {name} of {metric.mean:.1%}, but a "
            f"macro-F1 of {worst.macro_f1.mean:.1%}: it misses rare labels. {counts[rarest]:,} of "
            f"{run.num_labeled:,} labeled examples have the label {rarest!r}.",
            action=run.remedy_for_rare_labels,
        )


def cut_texts(run: RunResults) -> Iterator[Suggestion]:
    """Classifiers that read only the start of many texts."""
    for row in run.rows:
        fraction = run.results[row.steps[0]].get("fraction_cut") or 0.0
        if row.kind in ("student", "baseline") and fraction > MANY_CUT:
            yield Suggestion(
                rule="cut_texts",
                subject=row.name,
                evidence=f"{row.name} reads only the start of {fraction:.1%} of the test examples: they have more than "
                "max_length tokens.",
                action=f"Increase students.{row.student}.max_length, or put the decisive part of a text first.",
            )


def guessing_pattern(run: RunResults) -> Iterator[Suggestion]:
    """A pattern that guesses before training."""
    for row in run.rows:
        if row.kind == "zero-shot" and row.mcc is not None and row.mcc.mean < GUESSING_MCC:
            yield Suggestion(
                rule="guessing_pattern",
                subject=row.name,
                evidence=f"Before training, {row.name} has an accuracy of {row.accuracy.mean:.1%} and a Matthews "
                f"correlation of {row.mcc.mean:.2f} (0 is guessing).",
                action=f"Try other label words or another text for the pattern {run.label(row, 'pattern')}. "
                "clozeline score shows its scores without training.",
            )


def worse_by_training(run: RunResults) -> Iterator[Suggestion]:
    """A sub-model that is worse than its pattern without training."""
    zero_shot = {run.label(row, "pattern"): row for row in run.rows if row.kind == "zero-shot"}
    for row in run.rows:
        before = zero_shot.get(run.label(row, "pattern"))
        is_first = run.label(row, "member") == "pet" and run.label(row, "generation") in ("", "0")
        if row.kind == "sub-model" and is_first and before is not None:
            lost = before.accuracy.mean - row.accuracy.mean
            if lost > LARGE_GAP:
                yield Suggestion(
                    rule="worse_by_training",
                    subject=row.name,
                    evidence=f"{row.name} is {100 * lost:.1f} points below its pattern without training "
                    f"({row.accuracy.mean:.1%} and {before.accuracy.mean:.1%}).",
                    action=f"Train {row.name} less (lower pet.training.learning_rate, fewer epochs), or with more "
                    "labeled data.",
                )


def ensemble_below_member(run: RunResults) -> Iterator[Suggestion]:
    """An ensemble that is worse than one of its members."""
    members = run.members()
    if len(members) < 2:
        return
    best = max(members, key=lambda row: row.accuracy.mean)
    worst = min(members, key=lambda row: row.accuracy.mean)
    for ensemble in run.of_kind("ensemble"):
        if best.accuracy.mean > ensemble.accuracy.mean:
            yield Suggestion(
                rule="ensemble_below_member",
                subject="ensemble",
                evidence=f"The ensemble ({ensemble.accuracy.mean:.1%}) is below its member {best.name} "
                f"({best.accuracy.mean:.1%}); the weakest is {worst.name} ({worst.accuracy.mean:.1%}).",
                action="Try other weights (ensemble.weights: accuracy), an average of probabilities "
                "(ensemble.average), or remove the weakest member.",
            )


def few_unlabeled_examples(run: RunResults) -> Iterator[Suggestion]:
    """Students that learned from very few soft labels. One suggestion, because all learn from the same ones."""
    student = next(iter(run.of_kind("student")), None)
    if student is not None and student.num_unlabeled < MIN_UNLABELED:
        yield Suggestion(
            rule="few_unlabeled",
            subject=student.name,
            evidence=f"Students learned from {student.num_unlabeled:,} unlabeled examples, fewer than {MIN_UNLABELED}.",
            action="Add unlabeled texts. Without them, a supervised classifier is as good: remove data.unlabeled and "
            "set data.unlabeled_size: 0.",
        )


def student_below_ensemble(run: RunResults) -> Iterator[Suggestion]:
    """A student that is far below its teacher, the ensemble."""
    for student in run.of_kind("student"):
        for ensemble in run.of_kind("ensemble"):
            gap = ensemble.accuracy.mean - student.accuracy.mean
            if gap > max(LARGE_GAP, student.accuracy.std or 0):
                yield Suggestion(
                    rule="student_below_ensemble",
                    subject=student.name,
                    evidence=f"{student.name} ({student.accuracy.mean:.1%}) is {100 * gap:.1f} points below its "
                    f"ensemble ({ensemble.accuracy.mean:.1%}). It was trained on {student.num_unlabeled:,} unlabeled "
                    "examples.",
                    action="Try more unlabeled data, another student with a larger encoder, or more "
                    "distill.training.steps.",
                )


def student_not_ahead(run: RunResults) -> Iterator[Suggestion]:
    """A student that may not be better than its baseline."""
    students = {row.name for row in run.of_kind("student")}
    for item in run.comparisons:
        if item.first in students and item.low <= 0:
            yield Suggestion(
                rule="student_not_ahead",
                subject=item.first,
                evidence=f"{item.first} leads {item.second} by {100 * item.difference:+.1f} points, and 0 is within "
                f"the 95% interval ({100 * item.low:+.1f} to {100 * item.high:+.1f}).",
                action="Try better patterns or a larger backbone, which improve the ensemble, or more unlabeled data.",
            )


def large_spread(run: RunResults) -> Iterator[Suggestion]:
    """Seeds that disagree. One suggestion for the row with the largest deviation, because the remedy is the same."""
    spread = [(row.accuracy.std, row) for row in run.rows if row.accuracy.std is not None]
    wide = sorted(((std, row) for std, row in spread if std > LARGE_STD), key=lambda item: -item[0])
    if wide:
        std, row = wide[0]
        others = f"; {', '.join(other.name for _, other in wide[1:])} also vary" if wide[1:] else ""
        yield Suggestion(
            rule="large_spread",
            subject=row.name,
            evidence=f"{row.name} varies by ± {100 * std:.1f} points over {row.num_seeds} seeds{others}.",
            action=f"Run more seeds of {row.name} before you use its mean.",
        )


def untrustworthy_confidence(run: RunResults) -> Iterator[Suggestion]:
    """A student whose confidence does not match its accuracy."""
    for student in run.of_kind("student"):
        if student.ece is None or student.ece.mean <= POOR_CALIBRATION:
            continue
        yield Suggestion(
            rule="calibration",
            subject=student.name,
            evidence=f"The confidence of {student.name} differs from its accuracy by {100 * student.ece.mean:.1f} "
            "points (ECE).",
            action=f"Use the confidence of {student.name} to rank examples, not as a probability.",
        )


def small_pretraining_gain(run: RunResults) -> Iterator[Suggestion]:
    """A pretrained prompt that improved little on its pretraining task."""
    for name, result in run.results.items():
        if run.steps[name].kind != "ppt":
            continue
        before, after = result["held_out_before"]["accuracy"], result["held_out"]["accuracy"]
        if after - before < SMALL_GAIN:
            yield Suggestion(
                rule="pretraining",
                subject=name,
                evidence=f"{name} improved from {before:.1%} to {after:.1%} on "
                f"{result['held_out']['num_examples']:,} held-out examples.",
                action=f"Pretrain {name} longer (ppt.training.steps, ppt.corpus.num_examples), or on text that is more "
                "like the task.",
            )


RULES: tuple[Callable[[RunResults], Iterator[Suggestion]], ...] = (
    leaking_test_set,
    small_test_set,
    other_domain,
    other_frequencies,
    constant_predictions,
    missed_rare_labels,
    cut_texts,
    guessing_pattern,
    worse_by_training,
    ensemble_below_member,
    few_unlabeled_examples,
    student_below_ensemble,
    student_not_ahead,
    large_spread,
    untrustworthy_confidence,
    small_pretraining_gain,
)
