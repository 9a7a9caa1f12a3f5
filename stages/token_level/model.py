"""The base class of token-level models: a frozen backbone, a soft prompt, and a linear head on all tokens.

Letters in names of tensors: B windows, L tokens, O outputs of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from stages.common.metrics.classification import DevScore, Score
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.batching import autocast, batches_by_length, wants_bf16
from stages.common.models.linear_heads import LinearHead
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Recorder
from stages.token_level.windows import Windows

TaskT = TypeVar("TaskT")
ExampleT = TypeVar("ExampleT")
Item = TypeVar("Item")
DEV_BATCH_SIZE = 8


class TokenScores(NamedTuple):
    """`scores` of every token [B, L, O], and `starts` [B]: the index of the first token of each window, because causal
    models pad on the left.
    """

    scores: Tensor
    starts: Tensor


class TokenLevelEvaluation(NamedTuple):
    """The score on labeled examples, and the prediction for each of them."""

    score: Score
    predicted: list[Any]


class TokenLevelModel(ABC, Generic[TaskT, ExampleT, Item]):
    """A backbone with a prompt and a head for one task. The head maps hidden states [B, L, D] to scores [B, L, O]."""

    def __init__(
        self,
        task: TaskT,
        backbone: Backbone,
        config: BackboneConfig,
        prompt: Prompt | None,
        head: LinearHead | None = None,
    ) -> None:
        self.task = task
        self.backbone = backbone
        self.prompt = prompt
        self.head = head or LinearHead(backbone.hidden_size, len(self.outputs(task))).to(backbone.device)
        self.windows = Windows(backbone.tokenizer, backbone.family, config.max_length)
        self.autocast = backbone.model.dtype == torch.float32 and wants_bf16(config.precision)

    @staticmethod
    @abstractmethod
    def load(path: Path) -> list[Any]:
        """Reads the examples of a set, which the split stage wrote."""

    @staticmethod
    @abstractmethod
    def outputs(task: Any) -> tuple[str, ...]:
        """Returns the names of the outputs of the head."""

    @abstractmethod
    def items(self, examples: Sequence[ExampleT]) -> list[Item]:
        """Returns the windows of labeled examples, for training."""

    @abstractmethod
    def loss(self, part: list[Item], batch: list[Item] | None = None) -> Tensor:
        """Returns what a part of a batch contributes to the loss of the batch. Default: the part is the batch."""

    @abstractmethod
    def predict(self, examples: Sequence[ExampleT], recorder: Recorder, phase: str) -> list[Any]:
        """Returns the prediction for each example."""

    @abstractmethod
    def evaluate(self, examples: Sequence[ExampleT], recorder: Recorder, phase: str) -> TokenLevelEvaluation:
        """Predicts labeled examples and scores the predictions."""

    @abstractmethod
    def table(self, examples: Sequence[ExampleT], predicted: Sequence[Any]) -> list[dict[str, object]]:
        """Returns a table of the test set for the user to inspect."""

    def scores(self, encoded: Sequence[Encoded]) -> TokenScores:
        """Computes the scores of every token of a batch of windows."""
        with autocast(self.autocast):
            batch = self.backbone.batch(encoded)
            states_BLD = self.backbone.hidden_states(batch, None if self.prompt is None else self.prompt(encoded))
            return TokenScores(self.head(states_BLD), batch.mask_position)

    def validate(self, examples: Sequence[ExampleT], recorder: Recorder) -> DevScore:
        """Evaluates the dev set for early stopping: entity F1, or macro F1 if there are no entities; and the loss."""
        score, _ = self.evaluate(examples, recorder, "dev set")
        items = self.items(examples)
        with self.backbone.evaluation():
            losses = [
                float(self.loss(items[start : start + DEV_BATCH_SIZE]))
                for start in range(0, len(items), DEV_BATCH_SIZE)
            ]
        return DevScore(score.macro_f1 if score.entity_f1 is None else score.entity_f1, sum(losses) / len(losses))

    def batches(self, encoded: Sequence[Encoded], recorder: Recorder, phase: str) -> Iterator[list[int]]:
        """Yields rows in batches of similar length. The caller computes without gradients and dropout."""
        num_done = 0
        with self.backbone.evaluation():
            for rows in batches_by_length([len(item.ids) for item in encoded], self.backbone.eval_batch_tokens):
                yield rows
                num_done += len(rows)
                recorder.log_progress(num_done, len(encoded), phase=phase)
