"""What is asked of the tokens of a text: a label for each word, or where the answer to a question stands."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from stages.tasks import Labels, Name

OUTSIDE = "O"
"""The label of words that belong to no entity."""


class TokenTask(BaseModel, frozen=True, extra="forbid"):
    """A label for every word, as in the recognition of named entities."""

    kind: Literal["tokens"] = "tokens"
    name: Name = Field(description="Name of the task; part of step names.")
    labels: Labels = Field(
        description="All labels. Those of entities are written B-TYPE and I-TYPE (also E- and S-), all else is O; "
        "entity F1 is measured where there are some."
    )


class SpanTask(BaseModel, frozen=True, extra="forbid"):
    """Where in a context the answer to a question stands (extractive question answering, as in SQuAD)."""

    kind: Literal["spans"] = "spans"
    name: Name = Field(description="Name of the task; part of step names.")
    unanswerable: bool = Field(
        False, description="Whether some questions have no answer in their context, as in SQuAD 2.0."
    )
    max_answer: int = Field(30, ge=1, description="Tokens of an answer at the most.")
    overlap: int = Field(
        64, ge=0, description="Tokens that two windows share, where a context is too long for one; half of one at most."
    )
