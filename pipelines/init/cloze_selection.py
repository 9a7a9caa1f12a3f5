"""The patterns and label words of a new recipe: set by the user, or selected by the labeled examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from rich.markup import escape
from rich.table import Table

from pipelines.init.cloze_choices import Backbone, on_one_line
from pipelines.init.evidence import Candidate, Evidence, Words, ranked
from pipelines.init.interaction import Interaction
from pipelines.init.progress_lines import ProgressLines, ScoringProgress
from stages.common.examples import Example
from stages.common.patterns.config import Task

MAX_PATTERNS = 3
ANSWERS = ("Yes", "No", "Maybe")
"""Words for the labels of pairs, in every order."""
MAX_SHOWN = 40
"""Letters of label words in the table."""
NO_WORDS = "the names of the labels are no words (--label-words)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposals:
    """What can be selected."""

    task: Task
    """Labels and patterns, without label words."""
    backbone: Backbone
    names: Words
    """Label -> words of its name; may be empty."""
    described: Words
    """Label -> words of its description; empty if the user describes no label."""
    words: Words
    """Label -> words that the user sets; empty if the examples decide."""
    has_own_patterns: bool
    """Whether the user sets the patterns. They are all kept."""
    is_pair: bool

    @property
    def num_readings(self) -> float:
        """How often the language model reads a text per pattern, with the words of the user or of the names."""
        words = self._default_words()
        if not self.backbone.are_valid(words):
            return 1.0
        verbalizer = {label: list(item) for label, item in words.items()}
        return self.backbone.num_readings(self.task.with_words(verbalizer))

    def word_sets(self) -> list[Words]:
        """Returns the sets of label words that are tried."""
        if self.words:
            return [self.words]
        sets = [self.described, self.names, *self._answers()]
        return [item for item in sets if self.backbone.are_valid(item)]

    def first(self) -> list[Candidate]:
        """Returns the first patterns with the words of the user, the descriptions or the names, without a look at any
        example.
        """
        words = self._default_words()
        if not self.backbone.are_valid(words):
            return []
        patterns = list(self.task.patterns)
        kept = patterns if self.has_own_patterns else patterns[:MAX_PATTERNS]
        return [Candidate(pattern, words, 0.0, 0.0) for pattern in kept]

    def _default_words(self) -> Words:
        if self.words:
            return self.words
        return self.described if self.backbone.are_valid(self.described) else self.names

    def _answers(self) -> Iterator[Words]:
        labels = self.task.labels
        if self.is_pair and len(labels) <= len(ANSWERS):
            for order in permutations(ANSWERS[: len(labels)]):
                yield {label: [word] for label, word in zip(labels, order, strict=True)}


def select(proposals: Proposals, examples: Sequence[Example], terminal: Interaction) -> tuple[list[Candidate], str]:
    """Returns the patterns to keep, with their words, and why there is none.

    Keeps at most three patterns, and only those that predict the labeled examples clearly better than a guess. What
    the user sets is always kept. Words are searched for in the examples if those of the names do not help.

    Args:
        proposals: What can be selected.
        examples: Labeled examples.
        terminal: Shows the accuracies.
    """
    terminal.say("scoring", f"{len(proposals.task.patterns)} patterns on {len(examples)} labeled examples")
    progress = ScoringProgress(ProgressLines(terminal, "scoring"))
    evidence = Evidence(proposals.task, proposals.backbone.config, examples, progress)
    word_sets = proposals.word_sets()
    candidates = evidence.compare(word_sets) if word_sets else []
    if not proposals.words and not any(evidence.is_above_guess(item.accuracy) for item in candidates):
        candidates = _best_per_pattern([*candidates, *evidence.search(proposals.backbone.family)])
    kept = candidates
    if not proposals.has_own_patterns:
        kept = [item for item in candidates if evidence.is_above_guess(item.accuracy)][:MAX_PATTERNS]
        if proposals.words:
            kept = kept or candidates[:1]
    if candidates:
        _show(proposals.task, candidates, kept, evidence, terminal)
    if not candidates:
        return [], NO_WORDS
    return kept, "" if kept else f"no pattern is better than a guess on the {len(examples)} labeled examples"


def verbalizer_of(
    candidates: Sequence[Candidate], labels: Sequence[str]
) -> dict[str, list[str] | dict[str, list[str]]]:
    """Returns label -> words, or label -> pattern -> words if patterns have different words."""
    first = candidates[0].words
    if all(item.words == first for item in candidates):
        return {label: list(first[label]) for label in labels}
    return {label: {item.pattern: list(item.words[label]) for item in candidates} for label in labels}


def _best_per_pattern(candidates: Sequence[Candidate]) -> list[Candidate]:
    best: dict[str, Candidate] = {}
    for item in ranked(candidates):
        best.setdefault(item.pattern, item)
    return list(best.values())


def _show(
    task: Task, candidates: Sequence[Candidate], kept: Sequence[Candidate], evidence: Evidence, terminal: Interaction
) -> None:
    """Prints the accuracy of each pattern."""
    table = Table("pattern", "held-out accuracy", "kept", "label words", "text", box=None)
    for item in candidates:
        table.add_row(
            escape(item.pattern),
            f"{100 * item.accuracy:.1f}",
            "yes" if item in kept else "no",
            escape(_in_short(item.words)),
            escape(on_one_line(task.patterns[item.pattern])),
        )
    table.add_row("(most frequent label)", f"{100 * evidence.majority:.1f}", "", "", "", style="dim")
    terminal.console.print(table)
    terminal.console.print(
        f"calibrated and cross-validated on {len(evidence.examples)} labeled examples", style="dim", highlight=False
    )


def _in_short(words: Mapping[str, Sequence[str]]) -> str:
    text = "/".join(",".join(item) for item in words.values())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
