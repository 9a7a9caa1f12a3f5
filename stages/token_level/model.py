"""The base class of token-level models: a frozen backbone, a soft prompt, and a linear head on all tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

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
Text = TypeVar("Text")
Item = TypeVar("Item")


class TokenLevelModel(ABC, Generic[TaskT, Text, Item]):
    """Backbone, prompt and head for one task. `head` gives [B, L, outputs] scores of states [B, L, D]."""

    def __init__(
        self, task: TaskT, backbone: Backbone, config: BackboneConfig, prompt: Prompt, head: LinearHead | None = None
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
        """The texts of a set, as stages/token_level/examples.py wrote them."""

    @staticmethod
    @abstractmethod
    def outputs(task: Any) -> tuple[str, ...]:
        """Names of the head's outputs."""

    @abstractmethod
    def items(self, texts: Sequence[Text]) -> list[Item]:
        """Windows of annotated texts, for training."""

    @abstractmethod
    def loss(self, batch: list[Item]) -> Tensor:
        """Scalar loss of a batch."""

    @abstractmethod
    def predict(self, texts: Sequence[Text], recorder: Recorder, phase: str) -> list[Any]:
        """What is found in each text."""

    @abstractmethod
    def evaluate(self, texts: Sequence[Text], recorder: Recorder, phase: str) -> tuple[Score, list[Any]]:
        """Scores of annotated texts, and what was found in them."""

    @abstractmethod
    def table(self, texts: Sequence[Text], predicted: Sequence[Any]) -> list[dict[str, object]]:
        """What people look at beside the scores."""

    def scores(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """[B, L, outputs] scores of every token, and [B] where each text begins (causal models are padded on the
        left).
        """
        with autocast(self.autocast):
            batch = self.backbone.batch(encoded)
            states = self.backbone.hidden_states(batch, self.prompt())
            return self.head(states), batch.mask_position

    def validate(self, texts: Sequence[Text], recorder: Recorder) -> DevScore:
        """Merit (entity F1 or F1 of answers, where there is one; else accuracy) and loss, for early stopping."""
        found, _ = self.evaluate(texts, recorder, "dev set")
        items = self.items(texts)
        with torch.inference_mode():
            losses = [float(self.loss(items[start : start + 8])) for start in range(0, len(items), 8)]
        merit = found.macro_f1 if found.entity_f1 is None else found.entity_f1
        return DevScore(merit, sum(losses) / len(losses))

    def batches(self, encoded: Sequence[Encoded], recorder: Recorder, phase: str) -> Iterator[list[int]]:
        """Rows in batches of similar length, without gradients and dropout while the caller computes."""
        was_training = self.backbone.model.training
        self.backbone.model.eval()
        done = 0
        with torch.inference_mode():
            for rows in batches_by_length([len(item.ids) for item in encoded], self.backbone.eval_batch_tokens):
                yield rows
                done += len(rows)
                recorder.log_progress(done, len(encoded), phase=phase)
        self.backbone.model.train(was_training)
