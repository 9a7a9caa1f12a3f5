"""Config model of the evaluation stage of text generation."""

from __future__ import annotations

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.generation.config import GenerationTask


class GenerationEvaluationConfig(Config):
    """How the texts of the test set are generated and scored. A change of it trains nothing."""

    task: GenerationTask
    """The task."""
    backbone: BackboneConfig
    """The frozen language model."""
