"""Config models of the split stage of token-level tasks: files and sizes of the sets."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.data.config import Source
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask


class TokenLevelData(Config):
    """Files of an annotated task, and how much of them is taken."""

    train: Source
    """File of the annotated texts to learn from."""
    dev: Source | None = None
    """File of a development set."""
    test: Source
    """File of the test set."""
    train_size: int | None = Field(None, ge=1)
    """Training texts, drawn by the seed; none: all."""
    test_size: int | None = Field(None, ge=1)
    """Test texts, drawn by the seed; none: all."""

    @model_validator(mode="after")
    def _labels_are_named(self) -> TokenLevelData:
        for name, source in self.sources.items():
            if source.label is None:
                raise ValueError(f"{name}.label is not given. Name the column of labels or answers: label: answers.")
        return self

    @property
    def has_dev(self) -> bool:
        """Whether there is a development set."""
        return self.dev is not None

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are given, by name."""
        given = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: source for name, source in given.items() if source is not None}


class TokenLevelSplitsConfig(Config):
    """The task, where its texts are, the seed."""

    task: TokenClassificationTask | QuestionAnsweringTask = Field(discriminator="kind")
    """What is asked of the texts."""
    data: TokenLevelData
    """Files and sizes."""
    seed: int
    """Seed of the drawing."""
