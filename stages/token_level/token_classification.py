"""Labels words: a linear head on a frozen backbone with a soft prompt, as in P-tuning v2 (Liu et al., ACL 2022).

Letters in names of tensors: B windows, L tokens, W words of all windows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.protocols import Recorder
from stages.token_level.config import OUTSIDE, TokenClassificationTask
from stages.token_level.examples import TaggedText, load_tagged
from stages.token_level.metrics import entity_table, token_classification_scores
from stages.token_level.model import TokenLevelEvaluation, TokenLevelModel
from stages.token_level.windows import WordWindow


@dataclass(frozen=True, slots=True)
class TaggedWindow:
    """A training item: a window, and the index of the label of each of its words."""

    window: WordWindow
    labels: tuple[int, ...]


class TokenClassifier(TokenLevelModel[TokenClassificationTask, TaggedText, TaggedWindow]):
    """Predicts the label of each word."""

    @staticmethod
    def load(path: Path) -> list[TaggedText]:
        return load_tagged(path)

    @staticmethod
    def outputs(task: TokenClassificationTask) -> tuple[str, ...]:
        """Returns the labels."""
        return task.labels

    def items(self, examples: Sequence[TaggedText]) -> list[TaggedWindow]:
        indices = {label: index for index, label in enumerate(self.task.labels)}
        return [
            TaggedWindow(window, tuple(indices[text.labels[word]] for word in window.words))
            for text in examples
            for window in self.windows.of_words(text.words)
        ]

    def loss(self, batch: list[TaggedWindow]) -> Tensor:
        """Returns the cross-entropy, mean over the words of the batch."""
        scores_WC = self._word_scores([item.window for item in batch])
        gold_W = torch.tensor([label for item in batch for label in item.labels], device=scores_WC.device)
        return F.cross_entropy(scores_WC, gold_W)

    def predict(self, examples: Sequence[TaggedText], recorder: Recorder, phase: str) -> list[tuple[str, ...]]:
        """Returns the labels of each text. A word without tokens gets O or, if O is not a label, the first label."""
        labels = self.task.labels
        default = OUTSIDE if OUTSIDE in labels else labels[0]
        predicted = [[default] * len(text.words) for text in examples]
        windows = [(row, window) for row, text in enumerate(examples) for window in self.windows.of_words(text.words)]
        for numbers in self.batches([window.encoded for _, window in windows], recorder, phase):
            scores_WC = self._word_scores([windows[number][1] for number in numbers])
            indices = iter(scores_WC.argmax(dim=1).tolist())
            for number in numbers:
                row, window = windows[number]
                for word in window.words:
                    predicted[row][word] = labels[next(indices)]
        return [tuple(row) for row in predicted]

    def evaluate(self, examples: Sequence[TaggedText], recorder: Recorder, phase: str) -> TokenLevelEvaluation:
        predicted = self.predict(examples, recorder, phase)
        return TokenLevelEvaluation(
            token_classification_scores([text.labels for text in examples], predicted), predicted
        )

    def table(self, examples: Sequence[TaggedText], predicted: Sequence[tuple[str, ...]]) -> list[dict[str, object]]:
        """Returns precision, recall and F1 per type of entity."""
        return entity_table([text.labels for text in examples], predicted)

    def _word_scores(self, windows: Sequence[WordWindow]) -> Tensor:
        """Returns the scores of the words of all windows, [W, C]."""
        scores_BLC, starts_B = self.scores([window.encoded for window in windows])
        rows = [row for row, window in enumerate(windows) for _ in window.positions]
        positions = [position for window in windows for position in window.positions]
        return scores_BLC[rows, starts_B[rows] + torch.tensor(positions, device=scores_BLC.device)]
