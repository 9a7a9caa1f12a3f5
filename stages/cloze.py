"""A cloze classifier: backbone, pattern and label words, with or without a soft prompt. What PET and prompt tuning
share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.backbones import Backbone, BackboneConfig, autocast, wants_bf16
from stages.metrics import Score, score
from stages.patterns import Encoded, Encoder
from stages.protocols import Recorder
from stages.tasks import Example, Task
from stages.verbalizers import Verbalizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PREDICT_TOKENS = 1024
"""Padded tokens of one batch without gradients: enough to keep a processor busy, little enough for its caches."""


@dataclass(frozen=True, slots=True)
class LabelledCloze:
    """A training item: an encoded example and the index of its label."""

    encoded: Encoded
    label: int


@dataclass(slots=True)
class ClozeClassifier:
    """Scores the labels of a task under one pattern."""

    backbone: Backbone
    encoder: Encoder
    verbalizer: Verbalizer
    prompt: Any = None
    """A module that returns [N, D] when called, or None."""
    autocast: bool = False
    """Compute in bfloat16 although the weights are float32."""

    @classmethod
    def of(
        cls, task: Task, pattern: str, backbone: Backbone, config: BackboneConfig, prompt: Any = None
    ) -> ClozeClassifier:
        """Puts a task's pattern and words on a backbone."""
        encoder = Encoder(task.pattern(pattern), backbone.tokenizer, backbone.family, config.max_length, task.shorten)
        verbalizer = Verbalizer.of(task.words(pattern), backbone.tokenizer, backbone.family)
        import torch

        over_float32 = backbone.model.dtype == torch.float32 and wants_bf16(config.precision)
        return cls(backbone, encoder, verbalizer, prompt, over_float32)

    def logits(self, encoded: Sequence[Encoded]) -> Tensor:
        """[B, C] label logits of encoded examples, with gradients where the caller allows them."""
        batch = self.backbone.batch(encoded)
        with autocast(self.autocast):
            words = self.backbone.word_logits(
                batch, self.verbalizer.flat_ids, None if self.prompt is None else self.prompt()
            )
        return self.verbalizer.scores(words)

    def items(self, examples: Sequence[Example]) -> list[LabelledCloze]:
        """Encodes labelled examples for training."""
        return [LabelledCloze(self.encoder(item), self.verbalizer.labels.index(item.label or "")) for item in examples]

    def loss(self, batch: list[LabelledCloze]) -> Tensor:
        """Cross-entropy over the labels only (PET, section 3.1)."""
        import torch

        logits = self.logits([item.encoded for item in batch])
        gold = torch.tensor([item.label for item in batch], device=logits.device)
        return torch.nn.functional.cross_entropy(logits, gold)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] label logits, in the order of `examples`; batches hold texts of similar length."""
        import numpy as np
        import torch

        encoded = self.encoder.all(examples)
        result = np.zeros((len(encoded), len(self.verbalizer.labels)))
        was_training = self.backbone.model.training
        self.backbone.model.eval()
        done = 0
        with torch.inference_mode():
            for rows in batches_by_length([len(item.ids) for item in encoded], PREDICT_TOKENS):
                result[rows] = self.logits([encoded[row] for row in rows]).double().cpu().numpy()
                done += len(rows)
                recorder.progress(done, len(encoded), phase=phase)
        self.backbone.model.train(was_training)
        return result

    def evaluate(
        self, examples: Sequence[Example], recorder: Recorder, phase: str
    ) -> tuple[Score, NDArray[np.float64]]:
        """Score and [n, C] logits of labelled examples."""
        logits = self.predict(examples, recorder, phase)
        return score(logits, [item.label or "" for item in examples], self.verbalizer.labels), logits


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows sorted by length, longest first, in batches of at most `max_tokens` padded tokens (always at least one
    row).
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
