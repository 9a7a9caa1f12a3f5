"""A pattern as its fields and its mask, and the texts between them, which a search replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages.common.patterns.syntax import FieldRef, Mask, Pattern, PatternText, Sep
from stages.common.patterns.verbalizers import WITHOUT_SPACES

MASK = "{mask}"


@dataclass(frozen=True, slots=True)
class Template:
    """A pattern without soft blocks."""

    parts: tuple[str, ...]
    """Fields, mask and separator as the pattern language writes them, in order."""
    gaps: tuple[str, ...]
    """The text before each part, and the text after the last one; may be empty."""

    @classmethod
    def of(cls, pattern: Pattern) -> Template:
        """Splits a pattern."""
        parts: list[str] = []
        gaps = [""]
        for part in pattern.parts:
            if isinstance(part, PatternText):
                gaps[-1] = part.text
                continue
            if isinstance(part, FieldRef):
                parts.append("{" + "|".join([part.name, *part.filters]) + "}")
            else:
                assert isinstance(part, Mask | Sep), "a pattern with soft blocks is not searched"
                parts.append(MASK if isinstance(part, Mask) else "{sep}")
            gaps.append("")
        return cls(tuple(parts), tuple(gaps))

    @property
    def text(self) -> str:
        """The text of the pattern."""
        return self._with_literals([_escaped(gap) for gap in self.gaps])

    def soft_text(self, count: int) -> str:
        """Returns the text with a soft block where `before_mask` puts words."""
        literals = [_escaped(gap) for gap in self.gaps]
        literals[self.mask_gap] = f"{{soft:{count}}}{literals[self.mask_gap]}"
        return self._with_literals(literals)

    def with_word(self, word: str) -> str:
        """Returns the text with a word in the place of the mask, which moves to the start of the gap in front of it."""
        literals = [_escaped(gap) for gap in self.gaps]
        literals[self.mask_gap] = MASK + literals[self.mask_gap]
        parts = [_escaped(word) if part == MASK else part for part in (*self.parts, "")]
        return "".join(item for pair in zip(literals, parts, strict=True) for item in pair)

    def _with_literals(self, literals: Sequence[str]) -> str:
        return "".join(item for pair in zip(literals, (*self.parts, ""), strict=True) for item in pair)

    @property
    def mask_gap(self) -> int:
        """Index of the gap in front of the mask."""
        return self.parts.index(MASK)

    @property
    def editable(self) -> tuple[int, ...]:
        """Indices of the gaps that may get text. A pattern that ends in the mask still does so after the search."""
        num_gaps = len(self.gaps)
        return tuple(range(num_gaps - 1 if self.parts[-1] == MASK and not self.gaps[-1] else num_gaps))

    def with_gap(self, index: int, text: str) -> Template:
        """Returns the template with another text in a gap."""
        return replace(self, gaps=(*self.gaps[:index], text, *self.gaps[index + 1 :]))

    def before_mask(self, words: Sequence[str]) -> Template:
        """Returns the template with words at the start of the gap in front of the mask."""
        index = self.mask_gap
        literal, added = self.gaps[index], "".join(space_before(word) + word for word in words)
        if literal and literal[0].isalnum():
            added += space_before(literal)
        return self.with_gap(index, (added.lstrip() if index == 0 else added) + literal)


def space_before(text: str) -> str:
    """Returns the space between a text and what is before it: none in scripts without spaces."""
    return "" if WITHOUT_SPACES.match(text) else " "


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
