"""Config models of token-level tasks: token classification, question answering, and the settings of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.common.config import Config, Labels, Name
from stages.common.models.backbones.config import BackboneConfig

SERVING_FILE = "token_level_model.json"
OUTSIDE = "O"
"""The label of words that belong to no entity."""


class TokenClassificationSettings(Config):
    """Settings of token classification, such as named entity recognition, that a recipe defines."""

    labels: Labels
    """All labels. For entities, use B-TYPE and I-TYPE (E- and S- are accepted) and O for all other words. The entity F1
    score is computed if there are such labels. Other labels are allowed.
    """


class TokenClassificationTask(TokenClassificationSettings):
    """A label for each word."""

    kind: Literal["tokens"] = "tokens"
    """Label every token."""
    name: Name
    """Name of the task; part of step names."""


class QuestionAnsweringSettings(Config):
    """Settings of extractive question answering, as in SQuAD, that a recipe defines."""

    unanswerable: bool = False
    """If true, some questions have no answer in their context, as in SQuAD 2.0."""
    max_answer_tokens: int = Field(30, ge=1)
    """Maximum number of tokens of an answer."""
    overlap: int = Field(64, ge=0)
    """Tokens that two consecutive windows of a long context share, at most half of a window."""


class QuestionAnsweringTask(QuestionAnsweringSettings):
    """The position of the answer to a question in its context."""

    kind: Literal["spans"] = "spans"
    """Find the answer of a question in a text."""
    name: Name
    """Name of the task; part of step names."""


TokenLevelTaskConfig = TokenClassificationTask | QuestionAnsweringTask


class TokenLevelConfig(Config):
    """Base of configs with a token-level task."""

    task: TokenLevelTaskConfig = Field(discriminator="kind")
    """The task."""


class TokenLevelServingConfig(TokenLevelConfig):
    """What is needed to predict with a saved prompt and head."""

    backbone: BackboneConfig
    """The frozen language model."""

    def save(self, folder: Path) -> None:
        """Writes the config to the folder of the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
