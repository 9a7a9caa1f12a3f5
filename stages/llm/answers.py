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
from stages.llm.config import LlmSettings
from stages.llm.questions import Message


def request(settings: LlmSettings, chat: Sequence[Message]) -> dict[str, Any]:
    """Returns the body of the request for a chat."""
    return {
        "model": settings.model,
        "messages": list(chat),
        "temperature": 0,
        "seed": 0,
        "max_tokens": settings.max_answer_tokens,
    }


def load(settings: LlmSettings, chat: Sequence[Message]) -> str | None:
    """Returns the answer to a chat; None if it is not on this machine. A damaged file counts as none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_path(settings, chat).read_text(encoding="utf-8"))["answer"])
    return None


def store(settings: LlmSettings, chat: Sequence[Message], answer: str) -> None:
    """Writes an answer as a whole, so that a reader never sees a part."""
    path = _path(settings, chat)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        json.dump({"answer": answer}, file)
    Path(file.name).replace(path)


def _path(settings: LlmSettings, chat: Sequence[Message]) -> Path:
    name = hashlib.sha256(json.dumps(request(settings, chat), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "llm" / name[:2] / f"{name}.json"
