"""Config models of a backbone: the pretrained language model, LoRA adapters, and which parameters are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import AssetRef, Config, OptionalAssetRef
from stages.common.models.config import EVAL_BATCH_TOKENS, EVAL_BATCH_TOKENS_GPU, Precision


class BackboneConfig(Config):
    """The pretrained language model, and how texts are truncated for it."""

    asset: AssetRef
    """Reference of the model: a folder of a transformers model, or a GGUF file."""
    adapter: OptionalAssetRef = None
    """Reference of an adapter of PEFT that is merged into the weights of the model, such as LoRA, DoRA or IA3: a folder
    with adapter_config.json and adapter_model.safetensors. If not set, the model is used as it is.
    """
    trust_remote_code: bool = False
    """If true, Python code in the folder of the model is run, also by a plan. It can do anything on this machine, so
    read it first. Only models of architectures that transformers does not include need it.
    """
    max_length: int = Field(128, ge=8)
    """Maximum number of tokens of a text in its pattern, without the soft prompt."""
    precision: Precision = "auto"
    """Precision of frozen weights: fp32, bf16, or auto (bf16 if the hardware computes in it, else fp32)."""
    eval_batch_tokens: int | None = Field(
        None,
        ge=64,
        description=(
            "Padded tokens per inference batch. "
            f"If not set: {EVAL_BATCH_TOKENS:,} on a CPU, {EVAL_BATCH_TOKENS_GPU:,} on a GPU."
        ),
        json_schema_extra={"identity": False},
    )


Tune = Literal["full", "top_layers", "biases", "lora", "ia3", "adapter", "prompt", "none"]


class LoraConfig(Config):
    """Low-rank adapters (Hu et al., ICLR 2022) on the linear layers of the backbone."""

    rank: int = Field(8, ge=1)
    """Rank of the update of each matrix."""
    alpha: float = Field(16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the adapter's input."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted layers, or all-linear for all linear layers except the LM head."""
    dora: bool = False
    """If true, the length of each column of a matrix is trained apart from its direction (DoRA, Liu et al., ICML 2024).
    """
    rslora: bool = False
    """If true, the update is scaled by alpha / sqrt(rank) (rank-stabilized LoRA, Kalajdzievski, 2023)."""


class TuneConfig(Config):
    """Which parameters are trained."""

    tune: Tune = "lora"
    """Trained parameters: full (all weights), top_layers (the last blocks), biases (BitFit), lora (low-rank adapters),
    ia3 (factors of activations), adapter (bottlenecks after blocks), prompt (a soft prompt), none (zero-shot).
    """
    lora: LoraConfig = LoraConfig()
    """Adapters, for tune: lora."""
    num_top_layers: int = Field(2, ge=1)
    """Number of blocks, for tune: top_layers; of the encoder and of the decoder each."""
    adapter_size: int = Field(64, ge=1)
    """Width of the bottlenecks, for tune: adapter."""
