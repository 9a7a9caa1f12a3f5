"""A text that a predictor sends in parts while it writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any


@dataclass(slots=True, eq=False)
class StreamedText:
    """An item of a predictor that writes texts. It is predicted once: a second prediction repeats the first.

    Args:
        item: What the predictor gets for a text that is not streamed.
        emit: Gets each part of the text, in the thread of the model.
    """

    item: Any
    emit: Callable[[str], None]
    canceled: Event = field(default_factory=Event)
    """Set when the client no longer reads the text."""
    outcome: dict[str, Any] | Exception | None = None
    """The prediction or the error, if there is one already."""
