"""Config model of the stage that builds pretraining examples from a corpus in shards."""

from __future__ import annotations

from stages.common.models.backbones.config import BackboneConfig
from stages.prompt_pretraining.config import ExamplesConfig


class PretrainingExamplesConfig(ExamplesConfig):
    """A format, and the corpus from which its examples are built. The asset of the corpus is a folder of shards."""

    backbone: BackboneConfig | None = None
    """Labels the sentences of single. Not set for other formats, or if single.classifier labels."""
