"""Encodes an example under a pattern: tokenizes each piece, truncates fields until the text fits, keeps the mask.

Layout and truncation follow the original PET (Schick & Schütze, EACL 2021). Pieces are tokenized one by one. In
byte-level vocabularies they have the tokens that they have in the full text; the original puts a space before each
piece, also at the start of the text and before punctuation, which texts of the pretraining do not have. While the
text is too long, the longer segment loses a token, at the end of its last field that still has one. Where both fields
of a pair share a segment, this can remove the second field entirely; `truncation: longest` truncates the longest field
instead. Only fields are truncated. A causal model reads up to the mask; the text after it is scored with the label
word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stages.common.errors import PatternError
from stages.common.examples import Example
from stages.common.patterns.config import Family, Truncation
from stages.common.patterns.sentinels import SENTINELS
from stages.common.patterns.syntax import FieldRef, Mask, Pattern, Sep, Soft
from stages.common.plain_text import PlainText


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example under one pattern."""

    ids: tuple[int, ...]
    """Token ids, including special tokens."""
    token_type_ids: tuple[int, ...]
    """Segment (0 or 1) of each id."""
    mask_position: int
    """Index of the mask in `ids`; for a causal model the index of the last id, which the label word follows."""
    suffix: tuple[int, ...] = ()
    """For a causal model the ids after the label word."""
    prefix_length: int = 0
    """Number of ids through the last field. Patterns with the same beginning have the same ids up to there."""
    soft_positions: tuple[int, ...] = ()
    """Indices in `ids` of the vectors of soft blocks; the ids at these indices are not used."""

    def with_masks(self, count: int) -> Encoded:
        """Returns the text with `count` masks instead of one."""
        num_added, mask = count - 1, self.mask_position

        def repeat_mask(values: tuple[int, ...]) -> tuple[int, ...]:
            return values[:mask] + values[mask : mask + 1] * num_added + values[mask:]

        return Encoded(
            repeat_mask(self.ids),
            repeat_mask(self.token_type_ids),
            mask,
            soft_positions=tuple(
                position + num_added if position > mask else position for position in self.soft_positions
            ),
        )

    def with_word(self, word: tuple[int, ...]) -> Encoded:
        """Returns the text with the tokens of a word instead of the mask; `mask_position` is its first token."""
        masked, mask = self.with_masks(len(word)), self.mask_position
        return replace(masked, ids=masked.ids[:mask] + word + masked.ids[mask + len(word) :])

    def followed_by(self, ids: tuple[int, ...]) -> Encoded:
        """Returns the text with more ids after it, in its last segment."""
        return replace(
            self, ids=self.ids + ids, token_type_ids=self.token_type_ids + self.token_type_ids[-1:] * len(ids)
        )

    def preceded_by(self, ids: tuple[int, ...], start: int) -> Encoded:
        """Returns the text with more ids before the id at `start`."""
        return replace(
            self,
            ids=self.ids[:start] + ids + self.ids[start:],
            token_type_ids=(0,) * len(ids) + self.token_type_ids,
            mask_position=self.mask_position + len(ids),
            prefix_length=self.prefix_length + len(ids),
            soft_positions=tuple(position + len(ids) for position in self.soft_positions),
        )


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before, between and after its segments."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    after_single: tuple[int, ...]
    second_segment: int

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """Returns the special tokens in the encodings of a dummy text and a dummy pair."""
        single, pair = tokenizer("a"), tokenizer("a", "b")
        outer = _outer_tokens(single.sequence_ids(), single["input_ids"])
        sequences = pair.sequence_ids()
        first, second = len(sequences) - 1 - sequences[::-1].index(0), sequences.index(1)
        types = pair.get("token_type_ids")
        return cls(
            outer.before,
            tuple(pair["input_ids"][first + 1 : second]),
            _outer_tokens(sequences, pair["input_ids"]).after,
            outer.after,
            types[second] if types else 0,
        )


class _OuterTokens(NamedTuple):
    before: tuple[int, ...]
    after: tuple[int, ...]


def _outer_tokens(sequences: Sequence[int | None], ids: Sequence[int]) -> _OuterTokens:
    """Returns the ids before and after the text. `sequences`: number of the text of each id, None for special ones."""
    text = [index for index, sequence in enumerate(sequences) if sequence is not None]
    return _OuterTokens(tuple(ids[: text[0]]), tuple(ids[text[-1] + 1 :]))


class Encoder:
    """Encodes examples under one pattern, for one tokenizer and family of backbones."""

    def __init__(
        self,
        pattern: Pattern,
        tokenizer: Any,
        family: Family,
        max_length: int,
        truncation: Truncation = "last",
        *,
        num_reserved: int = 0,
        soft_blocks: bool = False,
    ) -> None:
        """
        Args:
            pattern: The parsed pattern.
            tokenizer: A fast tokenizer of transformers.
            family: Family of the backbone.
            max_length: Maximum number of tokens, including special tokens and vectors of soft blocks, but not a soft
                prompt before the text.
            truncation: Which field of the longer segment loses tokens first.
            num_reserved: Tokens of `max_length` to keep free for label words of several tokens.
            soft_blocks: True if a prompt fills the pattern's soft blocks.

        Raises:
            PatternError: the pattern has soft blocks and no prompt fills them, or leaves no space for text.
        """
        check_pattern(pattern, family, soft_blocks=soft_blocks)
        self.pattern = pattern
        self.tokenizer = tokenizer
        self.family = family
        self.max_length = max_length
        self.max_text_length = max_length - num_reserved
        self.truncation = truncation
        self.prefix: Callable[[Example], tuple[int, ...]] = lambda _: ()
        """Returns ids before a text, such as demonstrations; they do not count toward `max_length`."""
        self.specials = SpecialTokens.of(tokenizer)
        self._plain = PlainText(tokenizer)
        self.mask_ids = () if family == "causal" else (mask_token_id(tokenizer, family),)

    def __call__(self, example: Example) -> Encoded:
        """Encodes one example into at most `max_length` ids."""
        pieces = self._pieces(example)
        self._truncate(pieces)
        return self._join(pieces, self.prefix(example))

    def all(self, examples: Iterable[Example]) -> list[Encoded]:
        """Encodes examples, in order."""
        return [self(example) for example in examples]

    def filled(self, example: Example, word: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the ids of an example with a word instead of the mask, without special tokens around it and without
        soft blocks.
        """
        encoded = self(example)
        index = len(encoded.ids) if self.family == "causal" else encoded.mask_position
        soft = set(encoded.soft_positions)
        ids = [(row, token) for row, token in enumerate(encoded.ids) if row not in soft]
        start, end = len(self.specials.before), len(encoded.ids) - len(self.tail)
        before = tuple(token for row, token in ids if start <= row < index)
        after = tuple(token for row, token in ids if index < row < end)
        return before + word + (encoded.suffix or after)

    @property
    def tail(self) -> tuple[int, ...]:
        """The special tokens after a text; none for a causal model, which reads up to the mask."""
        if self.family == "causal":
            return ()
        is_pair = any(isinstance(part, Sep) for part in self.pattern.parts)
        return self.specials.after if is_pair else self.specials.after_single

    def _pieces(self, example: Example) -> list[_Piece]:
        """Tokenizes part by part.

        White space at the end of a literal moves to the start of the next part: in BPE vocabularies " film" and "film"
        are different tokens, and a single space is a third one.
        """
        pieces = []
        space = ""
        for part in self.pattern.parts:
            if isinstance(part, Mask | Sep | Soft):
                pieces.append(_Piece(self._placeholder_ids(part), part))
                space = ""
                continue
            is_field = isinstance(part, FieldRef)
            text = space + (
                self._plain(part.value(example.fields).strip()) if isinstance(part, FieldRef) else part.text
            )
            bare = text.rstrip(" ")
            space = "" if is_field else text[len(bare) :]
            # A pattern may contain special tokens, such as those of a chat; texts of users may not.
            ids = self._ids(bare, split_special_tokens=is_field) if bare else []
            pieces.append(_Piece(ids, part))
        return pieces

    def _ids(self, text: str, *, split_special_tokens: bool) -> list[int]:
        settings = {"add_special_tokens": False, "split_special_tokens": split_special_tokens}
        ids: list[int] = self.tokenizer(text, **settings)["input_ids"]
        return ids

    def _placeholder_ids(self, part: Mask | Sep | Soft) -> list[int]:
        """Returns the ids of the mask; for a soft block any id, because vectors replace its embedding."""
        if isinstance(part, Soft):
            return [int(self.tokenizer.eos_token_id or self.tokenizer.pad_token_id or 0)] * part.num_virtual_tokens
        return list(self.mask_ids) if isinstance(part, Mask) else []

    def _truncate(self, pieces: list[_Piece]) -> None:
        segments = _segments(pieces)
        full = self._join(pieces)
        for _ in range(len(full.ids) + len(full.suffix) - self.max_text_length):
            fields = [[piece for piece in segment if isinstance(piece.part, FieldRef)] for segment in segments]
            longer = max(reversed(fields), key=lambda group: sum(len(piece.ids) for piece in group))
            nonempty = [piece for piece in reversed(longer) if piece.ids]
            if not nonempty:
                raise PatternError(
                    f"pattern {self.pattern.name!r} leaves no space for text in {self.max_text_length} tokens.",
                    "Shorten the pattern's own words, or raise max_length.",
                )
            truncated = nonempty[0] if self.truncation == "last" else max(nonempty, key=lambda piece: len(piece.ids))
            truncated.ids.pop()

    def _join(self, pieces: list[_Piece], prefix: tuple[int, ...] = ()) -> Encoded:
        segments = _segments(pieces)
        is_pair = len(segments) == 2
        ids = [*self.specials.before, *prefix]
        types = [0] * len(ids)
        mask, prefix_length = -1, 0
        soft: list[int] = []
        for number, segment in enumerate(segments):
            if number:
                ids += self.specials.between
                types += [0] * len(self.specials.between)
            for piece in segment:
                if isinstance(piece.part, Mask):
                    mask = len(ids)
                if isinstance(piece.part, Soft):
                    soft += range(len(ids), len(ids) + len(piece.ids))
                ids += piece.ids
                types += [number * self.specials.second_segment] * len(piece.ids)
                if isinstance(piece.part, FieldRef):
                    prefix_length = len(ids)
        if self.family == "causal":  # reads up to the mask; the text after it is scored with the label word
            if mask == 0:  # the first word needs a previous token, too
                ids, types, mask = [self.tokenizer.bos_token_id, *ids], [0, *types], 1
            return Encoded(
                tuple(ids[:mask]),
                tuple(types[:mask]),
                mask - 1,
                suffix=tuple(ids[mask:]),
                prefix_length=min(prefix_length, mask),
                soft_positions=tuple(soft),
            )
        ids += self.tail
        types += [self.specials.second_segment if is_pair else 0] * len(self.tail)
        return Encoded(tuple(ids), tuple(types), mask, prefix_length=prefix_length, soft_positions=tuple(soft))


@dataclass(slots=True)
class _Piece:
    ids: list[int]
    part: object


def _segments(pieces: list[_Piece]) -> list[list[_Piece]]:
    segments: list[list[_Piece]] = [[]]
    for piece in pieces:
        if isinstance(piece.part, Sep):
            segments.append([])
        else:
            segments[-1].append(piece)
    return segments


def check_pattern(pattern: Pattern, family: Family, *, soft_blocks: bool = False) -> None:
    """Checks that the soft blocks of a pattern can be filled.

    Args:
        pattern: The pattern.
        family: Family of the backbone.
        soft_blocks: True if a prompt fills the blocks.

    Raises:
        PatternError: the pattern has soft blocks and no prompt fills them; or a causal model would read them after the
            label word.
    """
    if pattern.has_soft_blocks and not soft_blocks:
        raise PatternError(
            f"pattern {pattern.name!r} has a soft block, which only prompt tuning trains: {pattern.text!r}.",
            "Remove {soft:...} from patterns that sub-models use.",
        )
    mask = next(index for index, part in enumerate(pattern.parts) if isinstance(part, Mask))
    if family == "causal" and any(isinstance(part, Soft) for part in pattern.parts[mask:]):
        raise PatternError(
            f"pattern {pattern.name!r} has a soft block after the mask, where a causal model cannot use it.",
            "Put {soft:...} before {mask}.",
        )


def mask_token_id(tokenizer: Any, family: Family) -> int:
    """Returns the id of the mask: the mask token, or T5's first sentinel.

    Raises:
        PatternError: the tokenizer has none.
    """
    if family == "seq2seq":
        ids = [tokenizer.convert_tokens_to_ids(sentinel) for sentinel in SENTINELS]
        mask = next((item for item in ids if item is not None and item != tokenizer.unk_token_id), None)
    else:
        mask = tokenizer.mask_token_id
    if mask is None:
        missing = SENTINELS[0] if family == "seq2seq" else "mask token"
        raise PatternError(
            f"the tokenizer of the backbone has no {missing}.",
            "Use a model with its own tokenizer, which was trained to fill gaps.",
        )
    return int(mask)
