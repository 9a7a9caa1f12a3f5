"""Keeps each answer of an endpoint on this machine, so that none is paid for twice.

An answer is a small file in the cache folder. Its name is the hash of the request, so other recipes, and attempts after
an interruption, find it again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.common.assets.cache import cache_folder
from stages.llm.messages import Message

Request = dict[str, Any]
"""The body of a request."""


def request(
    model: str, chat: Sequence[Message], *, max_answer_tokens: int, temperature: float = 0.0, seed: int = 0
) -> Request:
    """Returns the request for the answer to a chat.

    Args:
        model: Name of the model at the endpoint.
        chat: The messages.
        max_answer_tokens: Maximum number of tokens of the answer.
        temperature: 0 for the most probable answer; higher for more variety.
        seed: Seed of the variety, for endpoints that use one.
    """
    return {
        "model": model,
        "messages": list(chat),
        "temperature": temperature,
        "seed": seed,
        "max_tokens": max_answer_tokens,
    }


def load(body: Request) -> str | None:
    """Returns the answer to a request; None if it is not on this machine. A damaged file counts as none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_path(body).read_text(encoding="utf-8"))["answer"])
    return None


def store(body: Request, answer: str) -> None:
    """Writes an answer as a whole, so that a reader never sees a part."""
    path = _path(body)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        json.dump({"answer": answer}, file)
    Path(file.name).replace(path)


def _path(body: Request) -> Path:
    name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "llm" / name[:2] / f"{name}.json"
