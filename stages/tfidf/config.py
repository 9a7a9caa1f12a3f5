"""Config model of the TF-IDF stage."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import SupervisedConfig
from stages.common.models.tfidf_config import TfidfSettings


class TfidfConfig(SupervisedConfig, TfidfSettings):
    """One TF-IDF classifier. Nothing in it is random."""

    num_folds: int | None = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. If not set, there is none."""
