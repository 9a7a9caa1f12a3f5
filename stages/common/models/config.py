"""Settings that several models share: precision, pooling, size of inference batches, and how members are averaged."""

from __future__ import annotations

from typing import Literal

Average = Literal["logits", "probabilities"]
Weights = Literal["uniform", "accuracy", "balanced", "held_out", "label_model"]
MemberScaling = Literal["none", "held_out"]
Calibration = Literal["none", "contextual", "unlabeled"]
FrequencySource = Literal["labeled", "unlabeled"]
EVAL_BATCH_TOKENS = 1024
"""Padded tokens per inference batch on a CPU: enough to use all cores, few enough for their caches."""
EVAL_BATCH_TOKENS_GPU = 16_384
"""Padded tokens per inference batch on a GPU, which smaller batches leave idle."""


def eval_batch_tokens(configured: int | None = None, *, on_gpu: bool) -> int:
    """Returns the padded tokens per inference batch: the configured number, or the default of the device."""
    return configured or (EVAL_BATCH_TOKENS_GPU if on_gpu else EVAL_BATCH_TOKENS)


Analyzer = Literal["word", "char"]
"""Units of the n-grams that TF-IDF counts."""
Pooling = Literal["mean", "cls", "last"]
Precision = Literal["auto", "fp32", "bf16"]
CONTENT_FREE_TEXTS = ("N/A", "[MASK]", "...")
"""Texts without content, for contextual calibration."""
