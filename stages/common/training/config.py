"""Config models of training: length, learning rate, batch size, and early stopping.

Defaults of the optimizer are PET's: AdamW, eps 1e-8, gradients clipped to norm 1.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import Config


class EarlyStopping(Config):
    """When to stop before the last step, and which parameters to keep: the best ones on the dev set."""

    eval_steps: int = Field(10, ge=1)
    """Steps from one look at the dev set to the next."""
    patience: int = Field(3, ge=1)
    """Looks without a better one until it stops."""


class TrainingConfig(Config):
    """How long and how fast to train. Defaults of the optimizer are PET's: AdamW, eps 1e-8, clipping at 1."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    batch_size: int = Field(8, ge=1)
    """Examples in one optimizer step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Examples in one forward pass, whose gradients add up to a step; none: all at once."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; either this or epochs."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training set; either this or steps."""
    lr_scheduler: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after the warm-up."""
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of matrices; vectors have none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    early_stopping: EarlyStopping | None = None
    """Looks at the dev set on the way; none: no looks."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, not both and not neither. Keep one: steps: 100.")
        return self

    def num_steps(self, num_items: int) -> int:
        """Optimizer steps for a training set of `num_items`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * math.ceil(num_items / self.batch_size)))

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Learning rate of step `step` (from 0) of `num_steps`."""
        warmup = round(self.warmup_ratio * num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, num_steps - warmup)
        if self.lr_scheduler == "linear":
            return self.learning_rate * (1 - share)
        if self.lr_scheduler == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate
