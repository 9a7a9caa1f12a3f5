"""The base of all config models, and types that they share: names of steps and folders, and the labels of a task.

This module imports pydantic only, so that a recipe can be read and planned without loading a model library.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


class Config(BaseModel):
    """Base of all config models: frozen, rejects unknown keys; the text under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
"""A name that also serves as a step's name and a folder: lower case, digits, `_`, `.`, `-`."""


def _differ(labels: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"the label {twice[0]!r} is listed twice. Keep it once.")
    return labels


Labels = Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_differ)]
"""Two labels or more, each once."""
