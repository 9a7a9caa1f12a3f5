"""Settings that several models share: precision, pooling, batch size of inference, and how members are averaged."""

from __future__ import annotations

from typing import Literal

Average = Literal["logits", "probabilities"]
Weights = Literal["uniform", "accuracy", "balanced"]
Calibration = Literal["none", "contextual", "unlabeled"]
EVAL_BATCH_TOKENS = 1024
"""Padded tokens of a pass without gradients: enough to keep a processor busy, little enough for its caches."""
EVAL_BATCH_TOKENS_GPU = 16_384
"""The same on a GPU, which small passes leave idle."""


def eval_batch_tokens(configured: int | None = None, *, on_gpu: bool) -> int:
    """Padded tokens of a pass without gradients: those asked for, else what suits the device."""
    return configured or (EVAL_BATCH_TOKENS_GPU if on_gpu else EVAL_BATCH_TOKENS)


Pooling = Literal["mean", "cls", "last"]
Precision = Literal["auto", "fp32", "bf16"]
