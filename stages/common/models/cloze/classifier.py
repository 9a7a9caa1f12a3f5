"""The cloze classifier: a backbone, a pattern and label words, with or without a soft prompt.

PET and prompt tuning share it. For its losses see stages/common/models/cloze/label_losses.py. Letters in names of
tensors: B examples, C labels, W label words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.examples import Example, label_indices, one_label
from stages.common.losses import mean_share
from stages.common.metrics.classification import DevScore, Score, score, softmax
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.soft_input import SoftPrompt
from stages.common.models.batching import autocast, batches_by_length, shard_batches, wants_bf16
from stages.common.models.cloze.config import OVER_VOCABULARY, LossKind
from stages.common.models.cloze.label_losses import LOSSES
from stages.common.models.cloze.label_word_scores import label_scores, word_scores
from stages.common.models.linear_heads import LinearHead
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.protocols import Engine, Recorder

Cloze = tuple[Encoded, ...]
"""An encoded example: one text, or for multiple choice one per option."""


@dataclass(frozen=True, slots=True)
class LabeledCloze:
    """A training item: an encoded example and the index of its label."""

    cloze: Cloze
    label: int
    example: Example
    weight: float = 1.0
    """Factor of its label loss."""
    label_probabilities: tuple[float, ...] | None = None
    """[C] a soft label: the label loss is then the one that these probabilities expect."""


class DemonstrationSampler(Protocol):
    """Adds labeled examples to texts; see stages/common/models/cloze/demonstrations.py"""

    def samples(self, clozes: Sequence[Cloze], examples: Sequence[Example]) -> Iterable[Sequence[Cloze]]:
        """Yields the encoded examples with other demonstrations each time."""


class Evaluation(NamedTuple):
    """The score on labeled examples, and the logits [n, C] that it was computed from."""

    score: Score
    logits: NDArray[np.float64]


@dataclass(slots=True)
class ClozeClassifier:
    """Scores the labels of a task under one pattern."""

    task: Task
    backbone: Backbone
    encoder: Encoder
    verbalizer: Verbalizer
    prompt: SoftPrompt | None = None
    autocast: bool = False
    """If True, compute in bfloat16 with float32 weights."""
    loss_kind: LossKind = "auto"
    head: LinearHead | None = None
    """Maps hidden states [B, D] at the mask to label scores [B, C]; replaces the label words."""
    engine: Engine = field(default_factory=InProcessEngine)
    """Shards batches among workers."""
    demonstrations: DemonstrationSampler | None = None
    """Predictions average over its samples. In training, the caller adds demonstrations to items."""

    @classmethod
    def of(
        cls,
        task: Task,
        pattern: str,
        backbone: Backbone,
        config: BackboneConfig,
        prompt: SoftPrompt | None = None,
        *,
        loss_kind: LossKind = "auto",
        head: LinearHead | None = None,
        engine: Engine | None = None,
    ) -> ClozeClassifier:
        """Builds the classifier for one pattern of a task.

        Args:
            task: Labels, patterns and label words.
            pattern: Name of the pattern.
            backbone: The language model.
            config: Its settings.
            prompt: The soft prompt, if any.
            loss_kind: The loss over label scores.
            head: Replaces the label words, if given.
            engine: Shards batches among workers. Default: one process.

        Raises:
            PatternError: the pattern has soft blocks that the prompt does not fill.
        """
        parsed = task.pattern(pattern)
        words = task.words(pattern) if head is None else {}
        verbalizer = Verbalizer.of(words, backbone.tokenizer, task.label_score)
        encoder = Encoder(
            parsed,
            backbone.tokenizer,
            backbone.family,
            config.max_length,
            task.truncation,
            num_reserved=backbone.num_reserved_tokens(verbalizer.longest, ends_in_mask=parsed.ends_in_mask),
            soft_blocks=prompt is not None and prompt.position == "inside",
        )
        return cls(
            task,
            backbone,
            encoder,
            verbalizer,
            prompt,
            autocast=backbone.model.dtype == torch.float32 and wants_bf16(config.precision),
            loss_kind=loss_kind,
            head=head,
            engine=engine or InProcessEngine(),
        )

    def encode(self, example: Example) -> Cloze:
        """Returns the token ids of an example, or for multiple choice of each of its questions."""
        return tuple(self.encoder(question) for question in self.task.questions(example))

    def logits(self, batch: Sequence[Cloze], *, training: bool = False) -> Tensor:
        """Returns label scores of encoded examples, [B, C], with gradients if the caller enables them."""
        items = [item for cloze in batch for item in cloze]
        prompt = None if self.prompt is None else self.prompt(items)
        with autocast(self.autocast):
            if self.head is not None:
                states_BD = self.backbone.mask_hidden_state(self.backbone.batch(items), prompt)
                scores_BC: Tensor = self.head(states_BD)
                return scores_BC
            scores_BW = word_scores(
                self.backbone,
                items,
                self.verbalizer.flat,
                likelihood=self.needs_likelihood(training=training),
                decoding=self.task.decoding,
                prompt=prompt,
                training=training,
            )
        return self.answers(scores_BW, len(batch))

    def needs_likelihood(self, *, training: bool) -> bool:
        """Returns True if words are scored by log-likelihoods instead of raw logits."""
        return self.verbalizer.needs_likelihood or (training and self.loss_kind in OVER_VOCABULARY)

    def answers(self, scores_BW: Tensor, size: int) -> Tensor:
        """Returns label scores, [B, C].

        Args:
            scores_BW: Scores of the label words; for multiple choice one row per option.
            size: B.
        """
        scores = label_scores(self.verbalizer, scores_BW)
        if not self.task.options:
            return scores
        return (scores[:, 0] - scores[:, 1]).view(size, -1)  # right minus wrong, one column per option

    def items(self, examples: Sequence[Example]) -> list[LabeledCloze]:
        """Encodes labeled examples for training."""
        return [
            LabeledCloze(self.encode(item), label, item)
            for item, label in zip(examples, label_indices(examples, self.task.labels), strict=True)
        ]

    def loss(self, part: list[LabeledCloze], batch: list[LabeledCloze] | None = None) -> Tensor:
        """Returns what a part of a batch contributes to its loss; see `LossKind`. Default: the part is the batch."""
        scores_BC = self.logits([item.cloze for item in part], training=True)
        return self.compute_loss(scores_BC, part) * mean_share(part, batch or part)

    def compute_loss(self, scores_BC: Tensor, batch: list[LabeledCloze]) -> Tensor:
        """Returns the loss of a batch with these label scores: the mean of weight times loss."""
        default: LossKind = "hinge" if self.verbalizer.longest > 1 else "cross_entropy"
        losses_BC = LOSSES[default if self.loss_kind == "auto" else self.loss_kind](scores_BC)
        targets_BC = torch.tensor([_target(item, scores_BC.shape[1]) for item in batch]).to(losses_BC)
        weights_B = torch.tensor([item.weight for item in batch]).to(losses_BC)
        return ((losses_BC * targets_BC).sum(dim=1) * weights_B).mean()

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns label scores [n, C] in the order of `examples`; with demonstrations, their mean over the samples."""
        encoded = [self.encode(item) for item in examples]
        if self.demonstrations is None:
            return self._predict(encoded, recorder, phase)
        samples = self.demonstrations.samples(encoded, examples)
        scores_snC = [
            self._predict(sample, recorder, f"{phase}, demonstrations {number + 1}" if phase else "")
            for number, sample in enumerate(samples)
        ]
        mean_nC: NDArray[np.float64] = np.mean(scores_snC, axis=0)
        return mean_nC

    def _predict(self, encoded: Sequence[Cloze], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns label scores [n, C]; batches hold texts of similar length."""
        local_scores = torch.zeros(len(encoded), len(self.task.labels), dtype=torch.float64)
        num_done = 0
        with self.backbone.evaluation():
            batches = batches_by_length([self.size(cloze) for cloze in encoded], self.backbone.eval_batch_tokens)
            for rows, counts in shard_batches(batches, self.engine):
                scores = self.logits([encoded[row] for row in rows])
                if counts:
                    local_scores[rows] = scores.double().cpu()
                num_done += len(rows) * self.engine.world_size
                recorder.log_progress(min(num_done, len(encoded)), len(encoded), phase=phase)
        scores_nC: NDArray[np.float64] = self.engine.all_reduce_sum(local_scores).numpy()
        return scores_nC

    def size(self, cloze: Cloze) -> int:
        """Returns the number of tokens that an example adds to a forward pass."""
        num_copies = len(self.verbalizer.flat) if self.verbalizer.longest > 1 or cloze[0].suffix else 1
        return num_copies * sum(len(item.ids) + len(item.suffix) for item in cloze)

    def evaluate(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> Evaluation:
        """Returns score and logits of labeled examples."""
        logits = self.predict(examples, recorder, phase)
        return Evaluation(score(logits, [one_label(item.label) for item in examples], self.task.labels), logits)

    def validate(self, examples: Sequence[Example], recorder: Recorder) -> DevScore:
        """Returns accuracy and cross-entropy on labeled examples, for early stopping."""
        result = self.evaluate(examples, recorder, "dev set")
        gold = label_indices(examples, self.task.labels)
        likelihoods = softmax(result.logits)[np.arange(len(gold)), gold]
        return DevScore(result.score.accuracy, float(-np.log(np.maximum(likelihoods, 1e-12)).mean()))


def _target(item: LabeledCloze, num_labels: int) -> tuple[float, ...]:
    """Returns the probabilities of the labels, [C]: the soft label, or 1 for the label."""
    if item.label_probabilities is not None:
        return item.label_probabilities
    return tuple(float(number == item.label) for number in range(num_labels))
