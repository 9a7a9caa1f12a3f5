"""Config models of in-context learning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.cloze.config import ClozeConfig
from stages.common.models.encoders.config import EncoderConfig

Selection = Literal["balanced", "random", "retrieved"]
ContextCalibration = Literal["none", "contextual", "domain", "batch"]


class DemonstrationConfig(Config):
    """Which labeled examples stand before a text, and how the scores of labels are calibrated."""

    shots: int = Field(2, ge=1)
    """Demonstrations per class. A text has shots times classes of them, or as many as fit into the backbone."""
    selection: Selection = "balanced"
    """balanced: the same for each text, equally many per class. random: the same for each text, from all classes.
    retrieved: those that are most similar to the text, the most similar one last (Liu et al., DeeLIO 2022).
    """
    retriever: EncoderConfig | None = None
    """Encoder whose cosine is the similarity, for selection: retrieved. If not set, it is BM25."""
    num_orders: int = Field(1, ge=1)
    """Orders of the demonstrations, whose label probabilities are averaged."""
    calibration: ContextCalibration = "none"
    """How the prior preference of the backbone for a label is removed: none, contextual (with texts without content),
    domain (with random words of the data; Fei et al., ACL 2023), or batch (with unlabeled texts; Zhou et al., ICLR
    2024).
    """

    @model_validator(mode="after")
    def _retriever_is_used(self) -> Self:
        if self.retriever is not None and self.selection != "retrieved":
            raise InputError(
                f"selection: {self.selection} retrieves nothing, but retriever is set.",
                "Set selection: retrieved, or remove retriever.",
                key="retriever",
            )
        return self


class InContextConfig(ClozeConfig, DemonstrationConfig):
    """In-context learning with one pattern."""

    seed: int = 0
    """Seed of the choice and order of demonstrations."""
