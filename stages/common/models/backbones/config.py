"""Config models of a backbone: the pretrained language model, LoRA adapters, and what of it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Config
from stages.common.models.config import EVAL_BATCH_TOKENS, EVAL_BATCH_TOKENS_GPU, Precision


class BackboneConfig(Config):
    """The pretrained language model, and how texts are cut for it."""

    asset: str = Field(json_schema_extra={"identity": False})
    """Reference of the model: a folder or a GGUF file."""
    max_length: int = Field(128, ge=8)
    """Tokens of a pattern-formatted text at the most, without soft prompt."""
    precision: Precision = "auto"
    """Precision of frozen weights: fp32, bf16, or auto = bf16 where the processor computes in it."""
    eval_batch_tokens: int | None = Field(
        None,
        ge=64,
        description=f"Padded tokens of a pass without gradients; none: {EVAL_BATCH_TOKENS:,}, on a GPU {EVAL_BATCH_TOKENS_GPU:,}.",
        json_schema_extra={"identity": False},
    )


Tune = Literal["full", "lora", "prompt", "none"]


class LoraConfig(Config):
    """Low-rank adapters (Hu et al., ICLR 2022) on the linear layers of the backbone."""

    rank: int = Field(8, ge=1)
    """Rank of the update of each matrix."""
    alpha: float = Field(16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted layers, or all-linear for every one but the LM head."""
