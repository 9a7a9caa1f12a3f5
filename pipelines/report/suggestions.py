"""Suggestions for the next experiment: rules over the results of a run, each with the number that supports it.

The rules look at results alone. A rule applies only if its number exceeds the noise of the test set. A suggestion has
not been tried: it is a hint, not a promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.comparisons import RowComparison
from pipelines.report.leaderboard import Row

MEMBERS = ("sub-model", "probe")
FAR_BELOW = 0.03
"""Accuracy by which a student is far below its teachers, and by which training made a pattern worse."""
NO_BETTER_THAN_GUESSING = 0.1
"""Matthews' correlation, which is 0 for guessing whatever the sizes of the classes."""
LARGE_STD = 0.03
LARGE_LEAK = 0.01
WIDE = 0.05
"""Half of a 95% interval that is too wide to tell methods apart which differ by a few points."""
POOR_CALIBRATION = 0.1
LITTLE_LEARNT = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A thing to try, and why. `rule` names the rule; `about` the row or step; `because` holds the figure."""

    rule: str
    about: str
    because: str
    attempt: str


@dataclass(frozen=True, slots=True)
class RunResults:
    """What the rules look at: the leaderboard, its comparisons, and the result of every step, as JSON values."""

    rows: Sequence[Row]
    comparisons: Sequence[RowComparison]
    results: Mapping[str, Mapping[str, Any]]

    def row(self, name: str) -> Row | None:
        """The row of a name, if there is one."""
        return next((row for row in self.rows if row.name == name), None)


def suggest(facts: RunResults) -> tuple[Suggestion, ...]:
    """What the rules say, what spoils the figures themselves first."""
    return tuple(advice for rule in RULES for advice in rule(facts))


def leaking_test_set(facts: RunResults) -> Iterator[Suggestion]:
    """Texts that were trained on and tested on flatter every row."""
    for name, result in facts.results.items():
        seen, size = result.get("num_test_seen") or 0, result.get("num_test") or 0
        if size and seen / size >= LARGE_LEAK:
            yield Suggestion(
                rule="leak",
                about=name,
                because=f"{seen:,} of {size:,} test texts ({seen / size:.1%}) stand in the training files too.",
                attempt="Take those test texts out of one of the files: all accuracies of this task are flattered.",
            )


def small_test_set(facts: RunResults) -> Iterator[Suggestion]:
    """A small test set cannot tell rows apart."""
    row = facts.row("student") or facts.row("ensemble")
    if row is None:
        return
    half = 1.96 * math.sqrt(row.accuracy.mean * (1 - row.accuracy.mean) / row.num_test)
    if half > WIDE:
        yield Suggestion(
            rule="small_test",
            about=row.name,
            because=f"On {row.num_test:,} test texts an accuracy of {row.accuracy.mean:.1%} is known to "
            f"± {100 * half:.1f} points (95% interval).",
            attempt="Test on more texts before rows are compared that differ by a few points.",
        )


def guessing_pattern(facts: RunResults) -> Iterator[Suggestion]:
    """A pattern whose words say nothing before training."""
    for row in facts.rows:
        if row.kind == "zero-shot" and row.mcc is not None and row.mcc.mean < NO_BETTER_THAN_GUESSING:
            yield Suggestion(
                rule="guessing_pattern",
                about=row.name,
                because=f"Before training {row.name} labels {row.accuracy.mean:.1%} rightly with a correlation of "
                f"{row.mcc.mean:.2f} (0 is guessing).",
                attempt=f"Try other words, or another question, for {row.name.partition('/')[2]}: clozeline score "
                "shows what they get right before any training.",
            )


def worse_by_training(facts: RunResults) -> Iterator[Suggestion]:
    """A sub-model that is worse than its pattern before training."""
    for row in facts.rows:
        before = facts.row(row.name.replace("pet/", "zero_shot/", 1))
        if row.kind == "sub-model" and before is not None and before is not row:
            lost = before.accuracy.mean - row.accuracy.mean
            if lost > FAR_BELOW:
                yield Suggestion(
                    rule="worse_by_training",
                    about=row.name,
                    because=f"{row.name} is {100 * lost:.1f} points below its own pattern before training "
                    f"({row.accuracy.mean:.1%} and {before.accuracy.mean:.1%}).",
                    attempt=f"Train {row.name} less (a lower pet.training.learning_rate, fewer epochs), or on more labels.",
                )


def ensemble_below_member(facts: RunResults) -> Iterator[Suggestion]:
    """An ensemble that is worse than one of its members."""
    ensemble = facts.row("ensemble")
    voting = [row for row in facts.rows if row.kind in MEMBERS and not row.name.startswith("pet/g")]
    if ensemble is None or len(voting) < 2:
        return
    best = max(voting, key=lambda row: row.accuracy.mean)
    worst = min(voting, key=lambda row: row.accuracy.mean)
    if best.accuracy.mean > ensemble.accuracy.mean:
        yield Suggestion(
            rule="ensemble_below_member",
            about="ensemble",
            because=f"The ensemble ({ensemble.accuracy.mean:.1%}) is below its member {best.name} "
            f"({best.accuracy.mean:.1%}); the weakest is {worst.name} ({worst.accuracy.mean:.1%}).",
            attempt="Try other weights (ensemble.weights: accuracy), a mean of probabilities (ensemble.mean), or leave "
            "the weakest member out.",
        )


def student_below_ensemble(facts: RunResults) -> Iterator[Suggestion]:
    """A student that did not learn what its teachers know."""
    student, ensemble = facts.row("student"), facts.row("ensemble")
    if student is None or ensemble is None:
        return
    gap = ensemble.accuracy.mean - student.accuracy.mean
    if gap > max(FAR_BELOW, student.accuracy.std or 0):
        yield Suggestion(
            rule="student_below_ensemble",
            about="student",
            because=f"The student ({student.accuracy.mean:.1%}) is {100 * gap:.1f} points below its ensemble "
            f"({ensemble.accuracy.mean:.1%}), taught with {student.num_unlabeled:,} texts.",
            attempt="Try more unlabelled texts, a larger student.asset, or longer distill.training.steps.",
        )


def student_not_ahead(facts: RunResults) -> Iterator[Suggestion]:
    """A student that is not surely better than training on the few labels alone."""
    for duel in facts.comparisons:
        if (duel.first, duel.second) == ("student", "baseline") and duel.low <= 0:
            yield Suggestion(
                rule="student_not_ahead",
                about="student",
                because=f"The student leads the baseline by {100 * duel.difference:+.1f} points, and 0 is within the "
                f"95% interval ({100 * duel.low:+.1f} to {100 * duel.high:+.1f}).",
                attempt="Try better patterns or a larger language model, which raise the ensemble, or a larger pile.",
            )


def large_spread(facts: RunResults) -> Iterator[Suggestion]:
    """Seeds that disagree. One hint for the widest row: the remedy is the same for all."""
    spread = [(row.accuracy.std, row) for row in facts.rows if row.accuracy.std is not None]
    wide = sorted(((std, row) for std, row in spread if std > LARGE_STD), key=lambda item: -item[0])
    if wide:
        std, row = wide[0]
        others = f"; {', '.join(other.name for _, other in wide[1:])} vary too" if wide[1:] else ""
        yield Suggestion(
            rule="large_spread",
            about=row.name,
            because=f"{row.name} varies by ± {100 * std:.1f} points over {row.num_seeds} seeds{others}.",
            attempt=f"Run more seeds of {row.name} before its mean is trusted.",
        )


def untrustworthy_confidence(facts: RunResults) -> Iterator[Suggestion]:
    """A student whose probabilities do not mean what they say."""
    student = facts.row("student")
    if student is not None and student.ece is not None and student.ece.mean > POOR_CALIBRATION:
        yield Suggestion(
            rule="calibration",
            about="student",
            because=f"The student's confidence is off by {100 * student.ece.mean:.1f} points on average (ECE).",
            attempt="Rank texts by the student's confidence, but read no probability out of it; softer targets "
            "(ensemble.temperature above 1) may help.",
        )


def pretraining_taught_little(facts: RunResults) -> Iterator[Suggestion]:
    """A prompt that hardly learnt its own task."""
    for name, result in facts.results.items():
        if not name.startswith("ppt/"):
            continue
        before, after = result["held_out_before"]["accuracy"], result["held_out"]["accuracy"]
        if after - before < LITTLE_LEARNT:
            yield Suggestion(
                rule="pretraining",
                about=name,
                because=f"{name} went from {before:.1%} to {after:.1%} on its own "
                f"{result['held_out']['num_examples']:,} held-out examples.",
                attempt=f"Pretrain {name} longer (ppt.training.steps, ppt.corpus.num_examples), or on text more like the "
                "task's.",
            )


RULES: tuple[Callable[[RunResults], Iterator[Suggestion]], ...] = (
    leaking_test_set,
    small_test_set,
    guessing_pattern,
    worse_by_training,
    ensemble_below_member,
    student_below_ensemble,
    student_not_ahead,
    large_spread,
    untrustworthy_confidence,
    pretraining_taught_little,
)
