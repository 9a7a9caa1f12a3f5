"""The cloze classifier: a backbone, a pattern and label words, with or without a soft prompt.

PET and prompt tuning share it. Its losses are cross-entropy over the labels (PET, Schick & Schütze, EACL 2021, section
3.1) and, for label words of several tokens, a hinge loss (NAACL 2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.metrics.classification import Score, score, softmax
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.batching import autocast, batches_by_length, shard_batches, wants_bf16
from stages.common.models.cloze.config import LossKind
from stages.common.models.cloze.label_word_scores import label_scores, word_scores
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.protocols import Engine, Recorder

Cloze = tuple[Encoded, ...]
"""An encoded example: one text, or in multiple choice one an option."""


@dataclass(frozen=True, slots=True)
class LabeledCloze:
    """A training item: an encoded example and the index of its label."""

    cloze: Cloze
    label: int


@dataclass(slots=True)
class ClozeClassifier:
    """Scores the labels of a task under one pattern."""

    task: Task
    backbone: Backbone
    encoder: Encoder
    verbalizer: Verbalizer
    prompt: Any = None
    """What returns a SoftInput when called (see stages/common/prompts/initialization.py), or None."""
    autocast: bool = False
    """Compute in bfloat16 although the weights are float32."""
    loss_kind: LossKind = "auto"
    head: Any = None
    """A module from states [B, D] at the mask to label scores [B, C], in the place of label words, or None."""
    engine: Engine = field(default_factory=InProcessEngine)
    """Shares out texts among workers."""

    @classmethod
    def of(
        cls,
        task: Task,
        pattern: str,
        backbone: Backbone,
        config: BackboneConfig,
        prompt: Any = None,
        loss_kind: LossKind = "auto",
        head: Any = None,
        engine: Engine | None = None,
    ) -> ClozeClassifier:
        """Puts a task's pattern, words (or head) and soft prompt on a backbone.

        Raises:
            PatternError: the pattern has soft blocks that the prompt does not fill.
        """

        parsed = task.pattern(pattern)
        words = task.words(pattern) if head is None else {}
        verbalizer = Verbalizer.of(words, backbone.tokenizer, backbone.family, task.label_score)
        reserve = {"masked": verbalizer.longest - 1, "causal": verbalizer.longest, "seq2seq": 0}[backbone.family]
        if verbalizer.longest == 1 and parsed.ends_in_mask:
            reserve = 0  # the next token's logits are read, and the token is never put in
        filled = prompt is not None and prompt.position == "inside"
        encoder = Encoder(
            parsed, backbone.tokenizer, backbone.family, config.max_length, task.truncation, reserve, soft_blocks=filled
        )
        over_float32 = backbone.model.dtype == torch.float32 and wants_bf16(config.precision)
        engine = engine or InProcessEngine()
        return cls(task, backbone, encoder, verbalizer, prompt, over_float32, loss_kind, head, engine)

    def encode(self, example: Example) -> Cloze:
        """Token ids of what is asked of an example."""
        return tuple(self.encoder(question) for question in self.task.questions(example))

    def logits(self, batch: Sequence[Cloze], *, training: bool = False) -> Tensor:
        """[B, C] label scores of encoded examples, with gradients where the caller allows them."""
        items = [item for cloze in batch for item in cloze]
        prompt = None if self.prompt is None else self.prompt()
        with autocast(self.autocast):
            if self.head is not None:
                states = self.backbone.mask_hidden_state(self.backbone.batch(items), prompt)
                scores: Tensor = self.head(states)
                return scores
            words = word_scores(
                self.backbone,
                items,
                self.verbalizer.flat,
                likelihood=self.verbalizer.needs_likelihood,
                decoding=self.task.decoding,
                prompt=prompt,
                training=training,
            )
        return self.answers(words, len(batch))

    def answers(self, words: Tensor, size: int) -> Tensor:
        """[B, C] label scores from [B, W] scores of words; in multiple choice these have a row for each option."""
        scores = label_scores(self.verbalizer, words)
        if not self.task.options:
            return scores
        return (scores[:, 0] - scores[:, 1]).view(size, -1)  # right against wrong, an option a column

    def items(self, examples: Sequence[Example]) -> list[LabeledCloze]:
        """Encodes labelled examples for training."""
        return [LabeledCloze(self.encode(item), self.task.labels.index(item.label or "")) for item in examples]

    def loss(self, batch: list[LabeledCloze]) -> Tensor:
        """Loss of a batch; see `Loss`."""
        return self.compute_loss(self.logits([item.cloze for item in batch], training=True), batch)

    def compute_loss(self, scores: Tensor, batch: list[LabeledCloze]) -> Tensor:
        """Loss of a batch with the scores [B, C]."""

        gold = torch.tensor([item.label for item in batch], device=scores.device)
        by_tokens = "hinge" if self.verbalizer.longest > 1 else "cross_entropy"
        kind = by_tokens if self.loss_kind == "auto" else self.loss_kind
        return hinge_loss(scores, gold) if kind == "hinge" else label_loss(scores, gold)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] label scores, in the order of `examples`; batches hold texts of similar length."""

        encoded = [self.encode(item) for item in examples]
        result = torch.zeros(len(encoded), len(self.task.labels), dtype=torch.float64)
        was_training = self.backbone.model.training
        self.backbone.model.eval()
        done = 0
        with torch.inference_mode():
            batches = batches_by_length([self.size(cloze) for cloze in encoded], self.backbone.eval_batch_tokens)
            for rows, counts in shard_batches(batches, self.engine):
                scores = self.logits([encoded[row] for row in rows])
                if counts:
                    result[rows] = scores.double().cpu()
                done += len(rows) * self.engine.world_size
                recorder.log_progress(min(done, len(encoded)), len(encoded), phase=phase)
        self.backbone.model.train(was_training)
        found: NDArray[np.float64] = self.engine.all_reduce_sum(result).numpy()
        return found

    def size(self, cloze: Cloze) -> int:
        """Tokens that an example brings into a forward pass."""
        by_word = len(self.verbalizer.flat) if self.verbalizer.longest > 1 or cloze[0].suffix else 1
        return by_word * sum(len(item.ids) + len(item.suffix) for item in cloze)

    def evaluate(
        self, examples: Sequence[Example], recorder: Recorder, phase: str
    ) -> tuple[Score, NDArray[np.float64]]:
        """Score and [n, C] logits of labelled examples."""
        logits = self.predict(examples, recorder, phase)
        return score(logits, [item.label or "" for item in examples], self.task.labels), logits

    def validate(self, examples: Sequence[Example], recorder: Recorder) -> tuple[float, float]:
        """Accuracy and cross-entropy on labelled examples, for early stopping."""

        found, logits = self.evaluate(examples, recorder, "development set")
        gold = [self.task.labels.index(item.label or "") for item in examples]
        likelihoods = softmax(logits)[np.arange(len(gold)), gold]
        return found.accuracy, float(-np.log(np.maximum(likelihoods, 1e-12)).mean())


def label_loss(scores: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy over the labels only (PET, Schick & Schütze, EACL 2021, section 3.1).

    Args:
        scores: [B, C].
        gold: [B] indices of the right labels.
    """

    return F.cross_entropy(scores, gold)


def hinge_loss(scores: Tensor, gold: Tensor) -> Tensor:
    """The right label must be likelier than each wrong one by a factor of e (PET, Schick & Schütze, NAACL 2021, section
    3.1): sum over wrong labels of max(0, 1 - score_right + score_wrong), mean over the batch.

    Args:
        scores: [B, C] log-likelihoods of labels, whose words have different numbers of tokens.
        gold: [B] indices of the right labels.
    """

    gaps_BC = 1 - scores.gather(1, gold[:, None]) + scores
    is_wrong_BC = torch.ones_like(scores).scatter(1, gold[:, None], 0.0)
    return (gaps_BC.clamp(min=0) * is_wrong_BC).sum(dim=1).mean()
