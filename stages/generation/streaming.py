"""Sends a generated text in parts, as soon as each is written, and stops when they are no longer read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

UNFINISHED = "\ufffd"
"""What a tokenizer writes for the first bytes of a character."""


class CanceledError(Exception):
    """The text is no longer wanted."""


class TextParts(BaseStreamer):  # type: ignore[misc]  # transformers has no types
    """A streamer of transformers. The parts together are the text without white space around it.

    Args:
        decode: Returns tokens as text.
        emit: Gets each part.
        is_canceled: Returns True if the text is no longer wanted.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], emit: Callable[[str], None], is_canceled: Callable[[], bool]
    ) -> None:
        self._decode = decode
        self._emit = emit
        self._is_canceled = is_canceled
        self._is_input = True
        self._ids: list[int] = []
        self._sent = ""

    def put(self, value: Tensor) -> None:
        """Gets the input first, then each new token.

        Raises:
            CanceledError: the text is no longer wanted.
        """
        if self._is_canceled():
            raise CanceledError
        if self._is_input:
            self._is_input = False
            return
        self._ids += value.reshape(-1).tolist()
        self._send(self._decode(self._ids).rstrip(UNFINISHED))

    def end(self) -> None:
        """Sends the rest of the text."""
        self._send(self._decode(self._ids))

    def _send(self, text: str) -> None:
        if text.startswith(self._sent) and text != self._sent:
            self._emit(text[len(self._sent) :])
            self._sent = text
