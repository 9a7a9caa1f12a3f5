"""Keeps the text of users plain: a special token that someone has typed is text, not a special token.

`split_special_tokens` of transformers, and `encode_special_tokens` of the tokenizers library, stop a tokenizer from
finding special tokens in a text. Some vocabularies (Unigram, as of T5 and XLM-R) have them as pieces as well. There,
the first character of what looks like one is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

REPLACEMENT = "‹"
"""A character that no normalization turns into the start of a special token; one character, so offsets stay."""
NUM_SENTINELS = 100
"""T5 has so many, which may be pieces of its vocabulary without being declared as special."""


class PlainText:
    """Makes texts plain for one tokenizer of transformers, or a bare one of the tokenizers library."""

    def __init__(self, tokenizer: Any) -> None:
        if hasattr(tokenizer, "encode_batch"):
            tokenizer.encode_special_tokens = True
            specials = [item.content for item in tokenizer.get_added_tokens_decoder().values() if item.special]
        else:
            tokenizer.split_special_tokens = True
            specials = list(tokenizer.all_special_tokens)
        self._found = _found_in_text(specials, tokenizer)

    def __call__(self, text: str) -> str:
        """Returns the text, in which the tokenizer finds no special token."""
        for token in self._found:
            if token in text:
                text = text.replace(token, REPLACEMENT + token[1:])
        return text


def _found_in_text(specials: Iterable[str], tokenizer: Any) -> tuple[str, ...]:
    """Returns the special tokens that the tokenizer still finds in a text."""
    is_bare = hasattr(tokenizer, "encode_batch")
    tokens = dict.fromkeys([*specials, *(f"<extra_id_{number}>" for number in range(NUM_SENTINELS))])
    found = []
    for token in tokens:
        text = f"a {token} a"
        if is_bare:
            pieces = tokenizer.encode(text, add_special_tokens=False).tokens
        else:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            pieces = tokenizer.convert_ids_to_tokens(ids)
        if len(token) > 1 and any(piece.lstrip("▁") == token for piece in pieces):
            found.append(token)
    return tuple(found)
