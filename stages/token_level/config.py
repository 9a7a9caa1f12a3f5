"""Config models of token-level tasks: token classification, question answering, and what a trained model serves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.common.config import Config, Labels, Name
from stages.common.models.backbones.config import BackboneConfig

SERVING_FILE = "token_level_model.json"
OUTSIDE = "O"
"""The label of words that belong to no entity."""


class TokenClassificationTask(Config):
    """A label for every word, as in the recognition of named entities."""

    kind: Literal["tokens"] = "tokens"
    name: Name
    """Name of the task; part of step names."""
    labels: Labels
    """All labels. Those of entities are written B-TYPE and I-TYPE (also E- and S-), all else is O; entity F1 is
    measured where there are some.
    """


class QuestionAnsweringTask(Config):
    """Where in a context the answer to a question stands (extractive question answering, as in SQuAD)."""

    kind: Literal["spans"] = "spans"
    name: Name
    """Name of the task; part of step names."""
    unanswerable: bool = False
    """Whether some questions have no answer in their context, as in SQuAD 2.0."""
    max_answer_tokens: int = Field(30, ge=1)
    """Tokens of an answer at the most."""
    overlap: int = Field(64, ge=0)
    """Tokens that two windows share, where a context is too long for one; half of one at most."""


class TokenLevelServingConfig(Config):
    """What a trained prompt serves."""

    task: TokenClassificationTask | QuestionAnsweringTask = Field(discriminator="kind")
    """What is asked of the texts."""
    backbone: BackboneConfig
    """The frozen language model."""

    def save(self, folder: Path) -> None:
        """Writes it beside the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


TokenLevelTaskConfig = TokenClassificationTask | QuestionAnsweringTask
