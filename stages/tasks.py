"""The values that say what is to be learnt: examples, patterns, label words. All frozen.

A pattern is a cloze question with one mask, in a small language of its own::

    "{text_a} ({mask}) {text_b}"      {field}                a field of the example; shortened when the text is too long
                                      {field|rstrip_punct}   the field, filtered first
                                      {mask}                 exactly once: where the label word goes
                                      {sep}                  at most once: the second segment starts here
                                      {{ and }}              the characters { and } themselves

Patterns and verbalizers are those of PET (Schick & Schütze, EACL 2021, https://arxiv.org/abs/2001.07676).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from stages.errors import PatternError, VerbalizerError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
"""A name that also serves as a step's name and a folder: lower case, digits, `_`, `.`, `-`."""

Shorten = Literal["last", "longest"]
"""Which field of the longer segment is shortened first."""

FILTERS: dict[str, Callable[[str], str]] = {
    "rstrip_punct": lambda text: text.rstrip(string.punctuation + "。！？，；：… "),
    "lower": str.lower,
    "strip": str.strip,
}


@dataclass(frozen=True, slots=True)
class Example:
    """One text (or pair of texts) with its label, if it is known. `uid` is unique in its split."""

    uid: str
    fields: Mapping[str, str]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Text of the pattern itself; never shortened."""

    text: str


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field of the example, filtered; shortened when the whole is too long."""

    name: str
    filters: tuple[str, ...] = ()

    def value(self, example: Example) -> str:
        """The filtered text of this field in `example`."""
        text = example.fields[self.name]
        for name in self.filters:
            text = FILTERS[name](text)
        return text


@dataclass(frozen=True, slots=True)
class Mask:
    """The place of the label word."""


@dataclass(frozen=True, slots=True)
class Sep:
    """The start of the second segment."""


Part = Words | FieldRef | Mask | Sep

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern. Build it with `Pattern.parse`."""

    name: str
    text: str
    parts: tuple[Part, ...] = field(repr=False)

    @classmethod
    def parse(cls, name: str, text: str) -> Pattern:
        """Parses the pattern language.

        Raises:
            PatternError: no mask or several, an unknown filter, a stray brace, two `{sep}`, or no field at all.
        """
        parts: list[Part] = []
        literal = ""
        last = 0
        for match in _TOKEN.finditer(text):
            literal += text[last : match.start()]
            last = match.end()
            if match.group(0) in ("{{", "}}"):
                literal += match.group(0)[0]
            elif match.group(1) is None:
                raise PatternError(
                    f"pattern {name!r} has a stray {match.group(0)!r} at character {match.start() + 1} of {text!r}.",
                    "Close the brace, or double it for the character itself.",
                )
            else:
                if literal:
                    parts.append(Words(literal))
                    literal = ""
                parts.append(_part(name, match.group(1)))
        literal += text[last:]
        if literal:
            parts.append(Words(literal))
        _check_counts(name, text, parts)
        return cls(name, text, tuple(parts))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the pattern takes, in order of appearance."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, FieldRef)))

    @property
    def ends_in_mask(self) -> bool:
        """Whether nothing follows the mask, as a causal language model needs it."""
        return isinstance(self.parts[-1], Mask)


def _part(name: str, inner: str) -> Part:
    if inner == "mask":
        return Mask()
    if inner == "sep":
        return Sep()
    field_name, *filters = inner.split("|")
    if not _FIELD.match(field_name):
        raise PatternError(
            f"pattern {name!r} has {{{inner}}}, which is neither {{mask}}, {{sep}} nor the name of a field.",
            "Write a field of the data, as {text}.",
        )
    for item in filters:
        if item not in FILTERS:
            raise PatternError(
                f"pattern {name!r} uses the unknown filter {item!r}.", f"Take one of: {', '.join(FILTERS)}."
            )
    return FieldRef(field_name, tuple(filters))


def _check_counts(name: str, text: str, parts: list[Part]) -> None:
    num_masks = sum(isinstance(part, Mask) for part in parts)
    if num_masks != 1:
        problem = "has no {mask}" if num_masks == 0 else f"has {num_masks} masks"
        raise PatternError(f"pattern {name!r} {problem}: {text!r}.", "Write {mask} exactly once.")
    if sum(isinstance(part, Sep) for part in parts) > 1:
        raise PatternError(f"pattern {name!r} has several {{sep}}: {text!r}.", "Two segments are the most.")
    if not any(isinstance(part, FieldRef) for part in parts):
        raise PatternError(f"pattern {name!r} takes no field: {text!r}.", "Add a field of the data, as {text}.")


class Task(BaseModel, frozen=True, extra="forbid"):
    """What is asked of a text: labels, patterns and, for each pattern, the words that stand for the labels."""

    name: Name = Field(description="Name of the task; part of step names.")
    labels: tuple[str, ...] = Field(min_length=2, description="All labels, in the order of logits and reports.")
    patterns: dict[Name, str] = Field(min_length=1, description="Name of a pattern -> its text, with one {mask}.")
    verbalizer: dict[str, list[str] | dict[str, list[str]]] = Field(
        description="Label -> label words for every pattern, or label -> pattern -> label words."
    )
    shorten: Shorten = Field(
        "last",
        description="Which field of the longer segment loses tokens: the last (as the original PET) or the longest.",
    )

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"the label {twice[0]!r} is listed twice. Keep it once.")
        return labels

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
    def _verbalizer_fits(self) -> Task:
        unknown = [label for label in self.verbalizer if label not in self.labels]
        if unknown:
            raise VerbalizerError(
                f"the verbalizer names the label {unknown[0]!r}, which is not in labels {list(self.labels)}.",
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
        for label in self.labels:
            for pattern in self.patterns:
                if not self.words(pattern).get(label):
                    raise VerbalizerError(
                        f"the verbalizer has no word for label {label!r} in pattern {pattern!r}.",
                        f"Add one: {label}: {{{pattern}: [word]}}.",
                        key="verbalizer",
                    )
        return self

    def pattern(self, name: str) -> Pattern:
        """The parsed pattern `name`."""
        return Pattern.parse(name, self.patterns[name])

    def words(self, pattern: str) -> dict[str, tuple[str, ...]]:
        """Label -> label words of `pattern`, labels in the task's order."""
        found = {}
        for label in self.labels:
            words = self.verbalizer.get(label, [])
            found[label] = tuple(words.get(pattern, ()) if isinstance(words, dict) else words)
        return found

    def only(self, pattern: str) -> Task:
        """The same task with one pattern: a step that uses one pattern is not touched by changes to the others."""
        words = {label: list(found) for label, found in self.words(pattern).items()}
        patterns = {pattern: self.patterns[pattern]}
        return self.model_copy(update={"patterns": patterns, "verbalizer": words})

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that some pattern takes."""
        names = (name for pattern in self.patterns for name in self.pattern(pattern).fields)
        return tuple(dict.fromkeys(names))
