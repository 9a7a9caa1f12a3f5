"""Plain values that all stages exchange: an example of a classification task, and a row of a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One text (or pair of texts) with its label, if it is known. `uid` is unique in its split; examples of one `group`
    are answers to the same question, as in MultiRC.
    """

    uid: str
    fields: Mapping[str, str]
    label: str | None = None
    group: str | None = None


Row = tuple[str, Mapping[str, Any]]
"""A row of a file: its place ("file, line 7") and its values by column."""
