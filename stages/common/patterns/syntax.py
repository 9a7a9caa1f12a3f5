"""The pattern language: parses a cloze template with one mask.

::

    "{text_a} ({mask}) {text_b}"      {field}                a field of the example; truncated when the text is too long
                                      {field|rstrip_punct}   the field, filtered first
                                      {mask}                 exactly once: where the label word goes
                                      {sep}                  at most once: the second segment starts here
                                      {option}               in multiple choice: the option in question
                                      {soft:20}              20 trainable vectors
                                      {soft:3:in summary}    3 trainable vectors, initialized from words
                                      {{ and }}              the characters { and } themselves

Patterns are those of PET (Schick & Schütze, EACL 2021, https://arxiv.org/abs/2001.07676); soft blocks are those of
P-tuning (Liu et al., 2021, https://arxiv.org/abs/2103.10385).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stages.common.errors import PatternError

FILTERS: dict[str, Callable[[str], str]] = {
    "rstrip_punct": lambda text: text.rstrip(string.punctuation + "。！？，；：… "),
    "lower": str.lower,
    "strip": str.strip,
}


@dataclass(frozen=True, slots=True)
class PatternText:
    """Text of the pattern itself; never truncated."""

    text: str


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field of the example, filtered; truncated if the text is too long."""

    name: str
    filters: tuple[str, ...] = ()

    def value(self, fields: Mapping[str, str]) -> str:
        """Returns the filtered text of this field."""
        text = fields[self.name]
        for name in self.filters:
            text = FILTERS[name](text)
        return text


@dataclass(frozen=True, slots=True)
class Mask:
    """The position of the label word."""


@dataclass(frozen=True, slots=True)
class Sep:
    """The start of the second segment."""


@dataclass(frozen=True, slots=True)
class Soft:
    """A block of trainable vectors in the pattern, initialized from `words` if there are any."""

    num_virtual_tokens: int
    words: str = ""


PatternPart = PatternText | FieldRef | Mask | Sep | Soft
OPTION = "option"
"""The field that multiple choice fills with each option in turn."""
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SOFT = re.compile(r"^soft:([1-9][0-9]*)(?::(.+))?$")
_FIELD = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern; see `Pattern.parse`."""

    name: str
    text: str
    parts: tuple[PatternPart, ...] = field(repr=False)

    @classmethod
    def parse(cls, name: str, text: str) -> Pattern:
        """Parses the pattern language.

        Raises:
            PatternError: no mask or several, an unknown filter, an unmatched brace, two `{sep}`, or no field.
        """
        parts: list[PatternPart] = []
        literal = ""
        last = 0
        for match in _TOKEN.finditer(text):
            literal += text[last : match.start()]
            last = match.end()
            if match.group(0) in ("{{", "}}"):
                literal += match.group(0)[0]
            elif match.group(1) is None:
                raise PatternError(
                    f"pattern {name!r} has an unmatched {match.group(0)!r} at character {match.start() + 1} "
                    f"of {text!r}.",
                    "Close the brace, or double it for the character itself.",
                )
            else:
                if literal:
                    parts.append(PatternText(literal))
                    literal = ""
                parts.append(_part(name, match.group(1)))
        literal += text[last:]
        if literal:
            parts.append(PatternText(literal))
        _check_counts(name, text, parts)
        return cls(name, text, tuple(parts))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the pattern uses, in order of appearance."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, FieldRef)))

    @property
    def ends_in_mask(self) -> bool:
        """True if nothing follows the mask."""
        return isinstance(self.parts[-1], Mask)

    @property
    def soft_blocks(self) -> tuple[Soft, ...]:
        """The blocks of trainable vectors, in order of appearance."""
        return tuple(part for part in self.parts if isinstance(part, Soft))

    @property
    def soft_follows_field(self) -> bool:
        """True if a field is before the first soft block."""
        kinds = [type(part) for part in self.parts if isinstance(part, FieldRef | Soft)]
        return kinds[0] is FieldRef and Soft in kinds

    @property
    def has_soft_blocks(self) -> bool:
        """True if the pattern has trainable vectors."""
        return bool(self.soft_blocks)


def _part(name: str, inner: str) -> PatternPart:
    if inner == "mask":
        return Mask()
    if inner == "sep":
        return Sep()
    if inner.startswith("soft:"):
        return _soft(name, inner)
    field_name, *filters = inner.split("|")
    if not _FIELD.match(field_name):
        raise PatternError(
            f"pattern {name!r} has {{{inner}}}, which is not {{mask}}, {{sep}} or the name of a field.",
            "Write a field of the data, for example {text}.",
        )
    for item in filters:
        if item not in FILTERS:
            raise PatternError(
                f"pattern {name!r} uses the unknown filter {item!r}.", f"Use one of: {', '.join(FILTERS)}."
            )
    return FieldRef(field_name, tuple(filters))


def _soft(name: str, inner: str) -> Soft:
    match = _SOFT.match(inner)
    if match is None:
        raise PatternError(
            f"pattern {name!r} has {{{inner}}}, which is not a valid soft block.",
            "Write the number of vectors, and optionally words to start from: {soft:3} or {soft:3:in summary}.",
        )
    return Soft(int(match[1]), match[2] or "")


def _check_counts(name: str, text: str, parts: list[PatternPart]) -> None:
    num_masks = sum(isinstance(part, Mask) for part in parts)
    if num_masks != 1:
        problem = "has no {mask}" if num_masks == 0 else f"has {num_masks} masks"
        raise PatternError(f"pattern {name!r} {problem}: {text!r}.", "Write {mask} exactly once.")
    if sum(isinstance(part, Sep) for part in parts) > 1:
        raise PatternError(f"pattern {name!r} has several {{sep}}: {text!r}.", "Write {sep} at most once.")
    if not any(isinstance(part, FieldRef) for part in parts):
        raise PatternError(f"pattern {name!r} has no field: {text!r}.", "Add a field of the data, for example {text}.")
