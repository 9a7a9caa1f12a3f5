"""Encodes an example under a pattern: tokenizes each piece, truncates fields until the text fits, keeps the mask.

Layout and truncation follow the original PET (Schick & Schütze, EACL 2021). Pieces are tokenized one by one. While the
text is too long, the longer segment loses a token, at the end of its last field that still has one. Where both fields
of a pair share a segment, this can remove the second field entirely; `truncation: longest` truncates the longest field
instead. Only fields are truncated. A causal model reads up to the mask; the text after it is scored with the label
word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.errors import PatternError
from stages.common.examples import Example
from stages.common.patterns.config import Family, Truncation
from stages.common.patterns.syntax import FieldRef, Mask, Pattern, PatternText, Sep, Soft


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example under one pattern.

    ids: token ids, special tokens included. segments: 0 or 1 for each id. mask: index of the mask in `ids`; for a
    causal model the index of the last id, whose next token is the label word. suffix: for a causal model the ids behind
    the label word. stem: how many of `ids` stand before what follows the last field; patterns with the same beginning
    have the same ones. soft: indices in `ids` of the vectors of soft blocks; the ids that stand there are never read.
    """

    ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    mask_position: int
    suffix: tuple[int, ...] = ()
    prefix_length: int = 0
    soft_positions: tuple[int, ...] = ()

    def with_masks(self, count: int) -> Encoded:
        """The same text with `count` masks in the place of its one mask."""
        ids, segments = self.ids, self.token_type_ids
        more = count - 1
        return Encoded(
            ids[: self.mask_position]
            + ids[self.mask_position : self.mask_position + 1] * more
            + ids[self.mask_position :],
            segments[: self.mask_position]
            + segments[self.mask_position : self.mask_position + 1] * more
            + segments[self.mask_position :],
            self.mask_position,
            soft_positions=tuple(
                place + more if place > self.mask_position else place for place in self.soft_positions
            ),
        )


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before, between and after its segments, learnt from the tokenizer
    itself.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    after_single: tuple[int, ...]
    second_segment: int

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """Reads them off the encodings of a dummy text and a dummy pair."""
        single, pair = tokenizer("a"), tokenizer("a", "b")
        before, after_single = _outside(single.sequence_ids(), single["input_ids"])
        _, after = _outside(pair.sequence_ids(), pair["input_ids"])
        sequences = pair.sequence_ids()
        first, second = len(sequences) - 1 - sequences[::-1].index(0), sequences.index(1)
        types = pair.get("token_type_ids")
        return cls(
            before,
            tuple(pair["input_ids"][first + 1 : second]),
            after,
            after_single,
            types[second] if types else 0,
        )


def _outside(sequences: Sequence[int | None], ids: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    real = [index for index, sequence in enumerate(sequences) if sequence is not None]
    return tuple(ids[: real[0]]), tuple(ids[real[-1] + 1 :])


class Encoder:
    """Turns examples into token ids under one pattern, for one tokenizer and family of backbones."""

    def __init__(
        self,
        pattern: Pattern,
        tokenizer: Any,
        family: Family,
        max_length: int,
        shorten: Truncation = "last",
        reserve: int = 0,
        *,
        soft_blocks: bool = False,
    ) -> None:
        """
        Args:
            pattern: The parsed pattern.
            tokenizer: A fast tokenizer of transformers.
            family: Family of the backbone.
            max_length: Tokens in all, special ones included, and vectors of soft blocks; a soft prompt before the text
                is not counted here.
            shorten: Which field of the longer segment loses tokens first.
            reserve: Tokens of the `max_length` that are kept free for label words of several tokens.
            soft_blocks: Whether a prompt fills the pattern's soft blocks.

        Raises:
            PatternError: the pattern has soft blocks that nothing fills, or leaves no room for any text.
        """
        check_pattern(pattern, family, soft_blocks=soft_blocks)
        self.pattern = pattern
        self.tokenizer = tokenizer
        self.family = family
        self.max_length = max_length
        self.room = max_length - reserve
        self.shorten = shorten
        self.prefix: tuple[int, ...] = ()
        """Ids before the text, such as demonstrations; they come on top of `max_length`."""
        self.specials = SpecialTokens.of(tokenizer)
        self.mask_ids = () if family == "causal" else (mask_token_id(tokenizer, family),)

    def __call__(self, example: Example) -> Encoded:
        """Encodes one example; the result has `max_length` ids at the most."""
        pieces = self._pieces(example)
        self._shorten(pieces)
        return self._join(pieces, self.prefix)

    def all(self, examples: Iterable[Example]) -> list[Encoded]:
        """Encodes examples, in order."""
        return [self(example) for example in examples]

    def _pieces(self, example: Example) -> list[_Piece]:
        """Tokenises part by part. White space at the end of a literal moves to the front of what follows: in BPE
        vocabularies " film" and "film" are different tokens, and a space alone is a third one."""
        pieces = []
        space = ""
        for part in self.pattern.parts:
            if isinstance(part, Mask | Sep | Soft):
                pieces.append(_Piece(self._stand_ins(part), part))
                space = ""
                continue
            text = space + (part.value(example.fields).strip() if isinstance(part, FieldRef) else part.text)
            bare = text.rstrip(" ")
            space = text[len(bare) :] if isinstance(part, PatternText) else ""
            ids = self.tokenizer(bare, add_special_tokens=False)["input_ids"] if bare else []
            pieces.append(_Piece(ids, part))
        return pieces

    def _stand_ins(self, part: Mask | Sep | Soft) -> list[int]:
        """The mask's ids; for a soft block the id of some token, whose embedding the block's vectors replace."""
        if isinstance(part, Soft):
            return [int(self.tokenizer.eos_token_id or self.tokenizer.pad_token_id or 0)] * part.num_vectors
        return list(self.mask_ids) if isinstance(part, Mask) else []

    def _shorten(self, pieces: list[_Piece]) -> None:
        segments = _segments(pieces)
        whole = self._join(pieces)
        for _ in range(len(whole.ids) + len(whole.suffix) - self.room):
            fields = [[piece for piece in segment if isinstance(piece.part, FieldRef)] for segment in segments]
            longer = max(reversed(fields), key=lambda group: sum(len(piece.ids) for piece in group))
            left = [piece for piece in reversed(longer) if piece.ids]
            if not left:
                raise PatternError(
                    f"pattern {self.pattern.name!r} leaves no room for text in {self.room} tokens.",
                    "Shorten the pattern's own words, or raise max_length.",
                )
            chosen = left[0] if self.shorten == "last" else max(left, key=lambda piece: len(piece.ids))
            chosen.ids.pop()

    def _tail(self, is_pair: bool) -> tuple[int, ...]:
        return self.specials.after if is_pair else self.specials.after_single

    def _join(self, pieces: list[_Piece], prefix: tuple[int, ...] = ()) -> Encoded:
        segments = _segments(pieces)
        is_pair = len(segments) == 2
        ids = [*self.specials.before, *prefix]
        types = [0] * len(ids)
        mask, stem = -1, 0
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
                    stem = len(ids)
        if self.family == "causal":  # reads up to the mask; what follows is scored with the word before it
            if mask == 0:  # the first word, too, follows something
                ids, types, mask = [self.tokenizer.bos_token_id, *ids], [0, *types], 1
            known = tuple(ids[:mask])
            return Encoded(known, tuple(types[:mask]), mask - 1, tuple(ids[mask:]), min(stem, mask), tuple(soft))
        tail = self._tail(is_pair)
        ids += tail
        types += [self.specials.second_segment if is_pair else 0] * len(tail)
        return Encoded(tuple(ids), tuple(types), mask, prefix_length=stem, soft_positions=tuple(soft))


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
    """Refuses soft blocks where they cannot be filled.

    Args:
        pattern: The pattern.
        family: Family of the backbone.
        soft_blocks: Whether a prompt fills the blocks.

    Raises:
        PatternError: the pattern has soft blocks, and nothing fills them; or a causal model would read them behind the
            label word.
    """
    if pattern.has_soft_blocks and not soft_blocks:
        raise PatternError(
            f"pattern {pattern.name!r} has a soft block, which only prompt tuning trains: {pattern.text!r}.",
            "Take {soft:...} out of patterns that sub-models use.",
        )
    places = [number for number, part in enumerate(pattern.parts) if isinstance(part, Soft)]
    mask = next(number for number, part in enumerate(pattern.parts) if isinstance(part, Mask))
    if family == "causal" and any(place > mask for place in places):
        raise PatternError(
            f"pattern {pattern.name!r} has a soft block behind the mask, which a causal model reads too late.",
            "Put {soft:...} before {mask}.",
        )


def mask_token_id(tokenizer: Any, family: Family) -> int:
    """The id that stands for the mask: the mask token, or T5's first sentinel."""
    if family == "seq2seq":
        return int(tokenizer.convert_tokens_to_ids("<extra_id_0>"))
    return int(tokenizer.mask_token_id)
