"""Plain values that all stages exchange: an example of a classification task, and a row of a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a split: its fields and, if known, its label."""

    uid: str
    """Unique in its split."""
    fields: Mapping[str, str]
    """Field name -> text."""
    label: str | None = None
    group: str | None = None
    """Examples of one group are answers to the same question, as in MultiRC."""


Row = tuple[str, Mapping[str, Any]]
"""A row of a file: its location ("file, line 7") and its values by column."""
