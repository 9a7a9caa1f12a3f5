"""What a model computes in, and where: the GPU that is seen or the processor, in bfloat16 where that is fast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

Precision = Literal["auto", "fp32", "bf16"]


def default_device() -> str:
    """The GPU that this process sees, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wants_bf16(precision: Precision) -> bool:
    """Whether to compute in bfloat16: as told, or where the processor multiplies matrices in it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def attention() -> str:
    """Implementation of attention. On processors the plain one: at the lengths of patterns its backward pass is so much
    faster than the fused one's that a training step of SmolLM2-135M takes 0.9 s instead of 1.4 s."""
    return "sdpa" if default_device() == "cuda" else "eager"


def autocast(on: bool) -> AbstractContextManager[Any]:
    """Computes in bfloat16 over float32 weights, if `on`."""
    import torch

    return torch.autocast(default_device(), dtype=torch.bfloat16) if on else nullcontext()
