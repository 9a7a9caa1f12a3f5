"""Config models of training: length, learning rate, batch size, and early stopping.

Defaults of the optimizer are PET's: AdamW, eps 1e-8, gradients clipped to norm 1. Averaging weights is that of Izmailov
et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError

ParameterGroup = Literal["prompt", "lora", "head", "backbone"]
"""What a parameter belongs to: a soft prompt, low-rank adapters, a linear head, or the pretrained model."""


class EarlyStopping(Config):
    """When training stops before the last step. The parameters with the best dev score are kept."""

    eval_steps: int = Field(10, ge=1)
    """Optimizer steps between two evaluations on the dev set."""
    patience: int = Field(3, ge=1)
    """Number of evaluations without improvement before training stops."""


class TrainingConfig(Config):
    """Length, learning rate and batch size of a training run."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    learning_rates: dict[ParameterGroup, Annotated[float, Field(gt=0)]] = Field({})
    """Part of what is trained (prompt, lora, head, backbone) -> its peak learning rate, on the same schedule. Other
    parts have learning_rate.
    """
    batch_size: int = Field(8, ge=1)
    """Examples per optimizer step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Examples per forward pass. Gradients are accumulated over a batch. If not set, a batch is one forward pass."""
    steps: int | None = Field(None, ge=1)
    """Number of optimizer steps. Set either this or epochs."""
    epochs: float | None = Field(None, gt=0)
    """Number of passes over the training set. Set either this or steps."""
    lr_scheduler: Literal["constant", "linear", "cosine"] = "linear"
    """Schedule of the learning rate after the warmup."""
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Fraction of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of matrices. Vectors, such as biases, have none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Maximum norm of the gradients, which are clipped to it."""
    average_last: float = Field(0.0, ge=0, lt=1)
    """Fraction of the steps, at the end, whose weights are averaged. 0 keeps the weights of the last step."""
    early_stopping: EarlyStopping | None = None
    """Evaluates on the dev set during training. If not set, training runs to the last step."""

    @model_validator(mode="after")
    def _has_one_length(self) -> TrainingConfig:
        if self.steps is None and self.epochs is None:
            raise InputError("neither steps nor epochs is set.", "Set one of them: steps: 100.")
        if self.steps is not None and self.epochs is not None:
            raise InputError("both steps and epochs are set.", "Keep one of them: steps: 100.")
        return self

    @model_validator(mode="after")
    def _keeps_one_set_of_weights(self) -> TrainingConfig:
        if self.average_last and self.early_stopping:
            raise InputError(
                "average_last keeps an average of the weights, but early_stopping keeps those of the best step.",
                "Remove one of them.",
            )
        return self

    def num_steps(self, num_items: int) -> int:
        """Returns the number of optimizer steps for a training set of `num_items`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * math.ceil(num_items / self.batch_size)))

    def scale_of(self, group: ParameterGroup) -> float:
        """Returns the peak learning rate of a part, as a multiple of `learning_rate`."""
        return self.learning_rates.get(group, self.learning_rate) / self.learning_rate

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Returns the learning rate of step `step` (from 0) of `num_steps`."""
        warmup = round(self.warmup_ratio * num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, num_steps - warmup)
        if self.lr_scheduler == "linear":
            return self.learning_rate * (1 - progress)
        if self.lr_scheduler == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate
