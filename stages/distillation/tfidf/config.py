"""Config model of the stage that distills into TF-IDF."""

from __future__ import annotations

from stages.common.models.tfidf_config import TfidfSettings
from stages.distillation.config import SelectionConfig


class TfidfDistillationConfig(SelectionConfig, TfidfSettings):
    """A student that counts words, fitted to the soft labels of the ensemble. Nothing in it is random."""
