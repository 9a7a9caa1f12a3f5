"""Config models of chain of thought."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from pydantic import Field, model_validator

from stages.chain_of_thought.answers import parsed_pattern
from stages.common.config import SINGLE_LABEL, Config, ProblemType
from stages.common.errors import InputError, PatternError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Truncation
from stages.common.patterns.syntax import OPTION, Mask, Pattern, Sep, Soft

ZERO_SHOT_TRIGGER = "Let's think step by step."


class Demonstration(Config):
    """A question with its rationale, as the model is to write it."""

    fields: dict[str, str]
    """Field of the question -> its text."""
    rationale: str = Field(min_length=1)
    """The reasoning and the answer, such as "Warm and clever are praise. The answer is fresh."."""


class QuestionSettings(Config):
    """The question, and how an answer is recognized."""

    question: str
    """Text before the rationale, with fields of the examples, such as "Q: {text} Is this fresh or rotten?\\nA:". A
    space follows it.
    """
    demonstrations: tuple[Demonstration, ...] = ()
    """Questions with rationales, which methods with num_demonstrations put before a question."""
    answer_trigger: str = Field("The answer is", min_length=1)
    """Text before an answer, whatever its case. The answer is in the rest of its line."""
    answer_pattern: str | None = None
    """Regular expression with a group named answer, such as "(?P<answer>fresh|rotten)". Its last match counts. If not
    set, answer_trigger finds the answer.
    """

    @model_validator(mode="after")
    def _question_parses(self) -> Self:
        try:
            fields = question_pattern(self.question).fields
        except PatternError as error:
            raise InputError(error.problem, error.remedy, key="question") from None
        for number, item in enumerate(self.demonstrations):
            _check_fields(item.fields, fields, f"demonstrations.{number}.fields")
        return self

    @model_validator(mode="after")
    def _pattern_has_an_answer(self) -> Self:
        if self.answer_pattern is not None:
            parsed_pattern(self.answer_pattern)
        return self


class RationaleSettings(Config):
    """How rationales are written."""

    num_demonstrations: int = Field(0, ge=0)
    """Demonstrations before a question, the first ones of the section. 0: zero-shot."""
    trigger: str | None = None
    """Start of each rationale. If not set: "Let's think step by step." without demonstrations, nothing with them."""
    answer_pass: bool | None = None
    """If true, answer_trigger is put after each rationale, and the model continues with the answer. If false, the
    rationale must contain the answer. If not set: true without demonstrations, false with them.
    """
    stop: tuple[str, ...] | None = None
    """Texts that end a rationale. If not set: an empty line with demonstrations, nothing without them. The token at the
    end of a text always ends it.
    """
    num_rationales: int = Field(1, ge=1)
    """Rationales per question. The answer of most of them counts (self-consistency)."""
    temperature: float = Field(0.0, ge=0)
    """0: the most probable token is taken. Higher: a token is sampled, with probabilities of this temperature."""
    top_k: int | None = Field(None, ge=1)
    """Samples among so many of the most probable tokens. If not set, among all."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Samples among the most probable tokens that together have this probability. If not set, among all."""
    max_rationale_tokens: int = Field(128, ge=1)
    """Maximum number of tokens of a rationale."""
    max_answer_tokens: int = Field(16, ge=1)
    """Maximum number of tokens of an answer that follows answer_trigger in a pass of its own."""

    @property
    def is_sampled(self) -> bool:
        """True if the seed decides about the rationales."""
        return self.temperature > 0

    @property
    def start(self) -> str:
        """Start of each rationale."""
        return (
            ("" if self.num_demonstrations else ZERO_SHOT_TRIGGER) if self.trigger is None else self.trigger
        ).strip()

    @property
    def has_answer_pass(self) -> bool:
        """True if the answer is written in a pass of its own."""
        return not self.num_demonstrations if self.answer_pass is None else self.answer_pass

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts that end a rationale."""
        return (("\n\n",) if self.num_demonstrations else ()) if self.stop is None else self.stop

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.num_rationales > 1 and not self.is_sampled:
            raise InputError(
                f"self-consistency votes over {self.num_rationales} rationales, but without sampling all are equal.",
                "Set temperature: 0.7, or remove num_rationales.",
                key="temperature",
            )
        return self

    @model_validator(mode="after")
    def _limits_are_for_samples(self) -> Self:
        for key in ("top_k", "top_p"):
            if getattr(self, key) is not None and not self.is_sampled:
                raise InputError(
                    f"{key} is for sampling, but temperature is 0.", f"Set temperature, or remove {key}.", key=key
                )
        return self

    @model_validator(mode="after")
    def _stop_is_text(self) -> Self:
        if "" in (self.stop or ()):
            raise InputError("an empty text ends every rationale.", "Remove it.", key="stop")
        return self


class ChainOfThoughtConfig(QuestionSettings, RationaleSettings):
    """One method of chain of thought."""

    labels: tuple[str, ...]
    """Labels of the task."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has: one label, or one label of an order."""
    truncation: Truncation = "last"
    """The field of a question that is truncated."""
    answers: dict[str, tuple[str, ...]]
    """Label -> words that name it in an answer."""
    backbone: BackboneConfig
    """The language model."""
    seed: int = 0
    """Seed of the samples."""


def question_pattern(question: str) -> Pattern:
    """Returns the question as a pattern, whose mask is the rationale.

    Raises:
        PatternError: it does not parse, has no field, or has a part that only patterns with label words have.
    """
    if "{mask}" in question:
        raise PatternError("a question has no {mask}: the rationale follows it.", "Remove {mask}.")
    pattern = Pattern.parse("question", f"{question}{{mask}}")
    has_other_parts = any(isinstance(part, Sep | Soft) for part in pattern.parts) or OPTION in pattern.fields
    if has_other_parts or sum(isinstance(part, Mask) for part in pattern.parts) != 1:
        raise PatternError(
            f"a question has no {{sep}}, {{soft:...}} and {{option}}: {question!r}.", "Write fields and text only."
        )
    return pattern


def _check_fields(given: Collection[str], required: Collection[str], key: str) -> None:
    if set(given) != set(required):
        raise InputError(
            f"the demonstration has the fields {sorted(given)}, but the question reads {sorted(required)}.",
            "Write a text for each field of the question.",
            key=key,
        )
