"""Config models of the split stage of token-level tasks: files and sizes of the sets."""

from __future__ import annotations

from pydantic import model_validator

from stages.common.data.config import DownstreamData
from stages.common.errors import InputError
from stages.token_level.config import TokenLevelConfig


class TokenLevelData(DownstreamData):
    """Files of a token-level task, and the number of examples to use."""

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


class TokenLevelSplitsConfig(TokenLevelConfig):
    """The sets of one token-level task."""

    data: TokenLevelData
    """Files and sizes."""
    seed: int = 0
    """Seed of the samples."""
