"""Config models of the split stage of token-level tasks: files and sizes of the sets."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.data.config import Source
from stages.common.errors import InputError
from stages.token_level.config import TokenLevelConfig


class TokenLevelData(Config):
    """Files of a token-level task, and the number of examples to use."""

    train: Source
    """Source of the labeled set."""
    dev: Source | None = None
    """Source of the dev set."""
    test: Source
    """Source of the test set."""
    train_size: int | None = Field(None, ge=1)
    """Training examples to sample. If not set, all are used."""
    test_size: int | None = Field(None, ge=1)
    """Test examples to sample. If not set, all are used."""

    @model_validator(mode="after")
    def _every_source_has_labels(self) -> TokenLevelData:
        for name, source in self.sources.items():
            if source.label is None:
                raise InputError(
                    f"{name}.label is not set.",
                    "Set the column of the labels or answers: label: answers.",
                    key=f"{name}.label",
                )
        return self

    @property
    def has_dev(self) -> bool:
        """Returns True if there is a dev set."""
        return self.dev is not None

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are set, by name."""
        sources = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: source for name, source in sources.items() if source is not None}


class TokenLevelSplitsConfig(TokenLevelConfig):
    """The sets of one token-level task."""

    data: TokenLevelData
    """Files and sizes."""
    seed: int = 0
    """Seed of the samples."""
