"""The task: labels, patterns with one mask, and the label words of each label.

Patterns and verbalizers are those of PET (Schick & Schütze, EACL 2021, https://arxiv.org/abs/2001.07676); label words
of several tokens are those of its second paper (Schick & Schütze, NAACL 2021, https://arxiv.org/abs/2009.07118).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages.common.config import Config, Labels, Name
from stages.common.errors import PatternError, VerbalizerError
from stages.common.examples import Example
from stages.common.patterns.syntax import OPTION, Pattern

Family = Literal["masked", "causal", "seq2seq"]
"""Kinds of language model: they differ in where the label word is read."""
Truncation = Literal["last", "longest"]
"""Which field of the longer segment is shortened first."""
LabelScore = Literal["mean_logit", "sum_probability", "log_likelihood"]
"""How the words of a label become its score; see stages/common/patterns/verbalizers.py"""
Decoding = Literal["default", "ltr", "parallel"]
"""In which order the masks of a word of several tokens are filled; see stages/common/models/cloze/label_word_scores.py"""
RIGHT, WRONG = "right", "wrong"
"""The two answers of multiple choice, which asks of each option whether it is the right one."""


class Task(Config):
    """What is asked of a text: labels, patterns and, for each pattern, the words that stand for the labels."""

    name: Name
    """Name of the task; part of step names."""
    labels: Labels
    """All labels, in the order of logits and reports."""
    patterns: dict[Name, str] = Field(min_length=1)
    """Name of a pattern -> its text, with one {mask}."""
    verbalizer: dict[str, list[str] | dict[str, list[str]]] = Field({})
    """Label -> label words for every pattern, or label -> pattern -> label words. In multiple choice the keys are right
    and wrong. Left out where words are searched for (verbalizer_search).
    """
    options: dict[str, str] = Field({})
    """Multiple choice: label -> field with the text of this option. Every pattern then has {option}, and is asked once
    for each.
    """
    label_score: LabelScore = "mean_logit"
    """How words become the score of their label: mean_logit (raw, as PET; log-likelihood where a word has several
    tokens), sum_probability (its logarithm), log_likelihood (the mean over words).
    """
    decoding: Decoding = "default"
    """Order in which a masked model fills words of several tokens: default (the surest mask first), ltr (left to
    right), parallel (all at once). Other models read from left to right.
    """
    truncation: Truncation = "last"
    """Which field of the longer segment loses tokens: the last (as the original PET) or the longest."""

    @field_validator("patterns")
    @classmethod
    def _patterns_parse(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, text in patterns.items():
            try:
                Pattern.parse(name, text)
            except PatternError as error:
                raise error.at(key=name) from None
        return patterns

    @model_validator(mode="after")
    def _options_fit(self) -> Task:
        for name in self.patterns:
            if bool(self.options) != (OPTION in self.pattern(name).fields):
                raise PatternError(
                    f"pattern {name!r} {'lacks' if self.options else 'has'} {{option}}, and the task has "
                    f"{'' if self.options else 'no '}options.",
                    "Multiple choice needs both: options: {label: field}, and {option} in every pattern.",
                    key=f"patterns.{name}",
                )
        if self.options and set(self.options) != set(self.labels):
            raise PatternError(
                f"options are given for {sorted(self.options)}, but the labels are {sorted(self.labels)}.",
                "Give each label the field with its option's text.",
                key="options",
            )
        return self

    @model_validator(mode="after")
    def _verbalizer_fits(self) -> Task:
        unknown = [label for label in self.verbalizer if label not in self.answers]
        if unknown:
            raise VerbalizerError(
                f"the verbalizer names the label {unknown[0]!r}, which is not in "
                f"{'the answers' if self.options else 'labels'} {list(self.answers)}.",
                "Correct its spelling, or add it to labels.",
                key=f"verbalizer.{unknown[0]}",
            )
        for label, words in self.verbalizer.items():
            odd = [name for name in words if name not in self.patterns] if isinstance(words, dict) else []
            if odd:
                raise VerbalizerError(
                    f"the verbalizer has words for the pattern {odd[0]!r}, which is not in patterns.",
                    f"Correct its spelling, or take it out; the patterns are {', '.join(self.patterns)}.",
                    key=f"verbalizer.{label}.{odd[0]}",
                )
        if self.verbalizer:
            self._check_complete()
        return self

    def _check_complete(self) -> None:
        for label in self.answers:
            for pattern in self.patterns:
                if not self.words(pattern).get(label):
                    raise VerbalizerError(
                        f"the verbalizer has no word for label {label!r} in pattern {pattern!r}.",
                        f"Add one: {label}: {{{pattern}: [word]}}.",
                        key="verbalizer",
                    )

    @property
    def answers(self) -> tuple[str, ...]:
        """What has words: the labels, or in multiple choice right and wrong."""
        return (RIGHT, WRONG) if self.options else self.labels

    def pattern(self, name: str) -> Pattern:
        """The parsed pattern `name`."""
        return Pattern.parse(name, self.patterns[name])

    def words(self, pattern: str) -> dict[str, tuple[str, ...]]:
        """Answer -> its words in `pattern`, in the order of `answers`; none where words are still to be searched."""
        found = {}
        for label in self.answers:
            words = self.verbalizer.get(label, [])
            found[label] = tuple(words.get(pattern, ()) if isinstance(words, dict) else words)
        return found

    def only(self, pattern: str) -> Task:
        """The same task with one pattern: a step that uses one pattern is not touched by changes to the others."""
        words = {label: list(found) for label, found in self.words(pattern).items()} if self.verbalizer else {}
        return self.model_copy(update={"patterns": {pattern: self.patterns[pattern]}, "verbalizer": words})

    def with_words(self, words: Mapping[str, list[str]]) -> Task:
        """The same task with other label words, the same in every pattern."""
        return Task.model_validate({**self.model_dump(), "verbalizer": dict(words)})

    def questions(self, example: Example) -> tuple[Example, ...]:
        """What is asked of an example: itself, or in multiple choice one question an option, in the labels' order."""
        if not self.options:
            return (example,)
        fields = (self.options[label] for label in self.labels)
        return tuple(replace(example, fields={**example.fields, OPTION: example.fields[name]}) for name in fields)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field of the data that some pattern takes, the options' fields included."""
        names = [name for pattern in self.patterns for name in self.pattern(pattern).fields if name != OPTION]
        return tuple(dict.fromkeys([*names, *self.options.values()]))
