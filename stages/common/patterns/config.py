"""Config model of a task: labels, patterns with one mask, and the label words of each label.

Patterns and verbalizers are those of PET (Schick & Schütze, EACL 2021, https://arxiv.org/abs/2001.07676); label words
of several tokens are those of its second paper (Schick & Schütze, NAACL 2021, https://arxiv.org/abs/2009.07118).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages.common.config import SINGLE_LABEL, Config, Labels, Name, ProblemType
from stages.common.errors import PatternError, VerbalizerError
from stages.common.examples import Example
from stages.common.patterns.syntax import OPTION, Pattern

Family = Literal["masked", "causal", "seq2seq"]
"""Families of language models. They differ in the position at which label words are scored."""
Truncation = Literal["last", "longest"]
"""The field of the longer segment that is truncated first."""
LabelScore = Literal["mean_logit", "sum_probability", "log_likelihood"]
"""How the scores of label words are combined. See stages/common/models/cloze/label_word_scores.py"""
Decoding = Literal["default", "ltr", "parallel"]
"""Order in which the masks of a label word with several tokens are filled. See label_word_scores.py"""
RIGHT, WRONG = "right", "wrong"
"""The two answers of multiple choice, where the model scores each option on its own."""


class Task(Config):
    """A classification task: labels, patterns and, for each pattern, the words that represent the labels."""

    name: Name
    """Name of the task. It is part of step names."""
    labels: Labels
    """All labels, in the order of logits and reports. Ordered labels are listed from low to high."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has: single_label_classification (one label), ordinal_classification (one label of an order, such
    as a number of stars), or multi_label_classification (any number of labels, also none). For several labels there is
    no language model: encoders and word counts learn them.
    """
    patterns: dict[Name, str] = Field(min_length=1)
    """Name of a pattern -> its text, with one {mask} and fields of the examples, such as {text}."""
    verbalizer: dict[str, list[str] | dict[str, list[str]]] = Field({})
    """Label -> label words for every pattern, or label -> pattern -> label words. In multiple choice the keys are right
    and wrong. Not set if verbalizer_search finds the words.
    """
    options: dict[str, str] = Field({})
    """Multiple choice: label -> field with the text of this option. Every pattern must contain {option}, and the model
    reads it once per option.
    """
    label_score: LabelScore = "mean_logit"
    """Score of a label: mean_logit (mean of its words, as in PET; mean log-likelihood if a word has several tokens),
    sum_probability (logarithm of the summed probabilities), log_likelihood (mean over its words).
    """
    decoding: Decoding = "default"
    """Order in which a masked model fills label words with several tokens: default (most confident mask first), ltr
    (left to right), parallel (all at once). Other models work from left to right.
    """
    truncation: Truncation = "last"
    """The field of the longer segment that is truncated: the last (as in the original PET) or the longest."""

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
                problem = "lacks {option}, but the task has" if self.options else "has {option}, but the task has no"
                raise PatternError(
                    f"pattern {name!r} {problem} options.",
                    "For multiple choice, set options: {label: field} and use {option} in every pattern.",
                    key=f"patterns.{name}",
                )
        if self.options and set(self.options) != set(self.labels):
            raise PatternError(
                f"options are set for {sorted(self.options)}, but the labels are {sorted(self.labels)}.",
                "Set, for each label, the field with the text of its option.",
                key="options",
            )
        return self

    @model_validator(mode="after")
    def _verbalizer_fits(self) -> Task:
        unknown = [label for label in self.verbalizer if label not in self.answers]
        if unknown:
            raise VerbalizerError(
                f"the verbalizer has the label {unknown[0]!r}, which is not in "
                f"{'the answers' if self.options else 'labels'} {list(self.answers)}.",
                "Correct its spelling, or add it to labels.",
                key=f"verbalizer.{unknown[0]}",
            )
        for label, words in self.verbalizer.items():
            unknown = [name for name in words if name not in self.patterns] if isinstance(words, dict) else []
            if unknown:
                raise VerbalizerError(
                    f"the verbalizer has words for the pattern {unknown[0]!r}, which is not in patterns.",
                    f"Correct its spelling, or remove it. The patterns are {', '.join(self.patterns)}.",
                    key=f"verbalizer.{label}.{unknown[0]}",
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
        """The keys of the verbalizer: the labels, or right and wrong in multiple choice."""
        return (RIGHT, WRONG) if self.options else self.labels

    def pattern(self, name: str) -> Pattern:
        """The parsed pattern `name`."""
        return Pattern.parse(name, self.patterns[name])

    def words(self, pattern: str) -> dict[str, tuple[str, ...]]:
        """Answer -> its words in `pattern`, in the order of `answers`. Empty if the words are not found yet."""
        found = {}
        for label in self.answers:
            words = self.verbalizer.get(label, [])
            found[label] = tuple(words.get(pattern, ()) if isinstance(words, dict) else words)
        return found

    def only(self, pattern: str) -> Task:
        """The same task with one pattern, so that changes to other patterns do not rerun a step that uses this one."""
        words = {label: list(words) for label, words in self.words(pattern).items()} if self.verbalizer else {}
        return self.model_copy(update={"patterns": {pattern: self.patterns[pattern]}, "verbalizer": words})

    def with_words(self, words: Mapping[str, list[str]]) -> Task:
        """The same task with other label words, the same in every pattern."""
        return Task.model_validate({**self.model_dump(), "verbalizer": dict(words)})

    def with_patterns(self, patterns: Mapping[str, str]) -> Task:
        """The same task, in which some patterns have other texts."""
        return Task.model_validate({**self.model_dump(), "patterns": {**self.patterns, **patterns}})

    def questions(self, example: Example) -> tuple[Example, ...]:
        """Returns the texts to score for an example: itself, or in multiple choice one per option, in label order."""
        if not self.options:
            return (example,)
        fields = (self.options[label] for label in self.labels)
        return tuple(replace(example, fields={**example.fields, OPTION: example.fields[name]}) for name in fields)

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields that the patterns and the options read."""
        names = [name for pattern in self.patterns for name in self.pattern(pattern).fields if name != OPTION]
        return tuple(dict.fromkeys([*names, *self.options.values()]))
