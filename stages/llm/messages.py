"""The messages of a chat, and an estimate of their length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Message = dict[str, str]
CHARACTERS_PER_TOKEN = 4
"""For estimates. English texts have about four, others have fewer."""


def message(role: Literal["system", "user", "assistant"], content: str) -> Message:
    """Returns a message of a chat."""
    return {"role": role, "content": content}


def num_tokens(messages: Sequence[Message]) -> int:
    """Returns an estimate of the number of tokens of a chat."""
    return sum(len(item["content"]) for item in messages) // CHARACTERS_PER_TOKEN + 4 * len(messages)
