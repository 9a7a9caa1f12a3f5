"""Labels words: a linear head on a frozen backbone with a soft prompt, as in P-tuning v2 (Liu et al., ACL 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.metrics.classification import Score
from stages.common.protocols import Recorder
from stages.token_level.config import TokenClassificationTask
from stages.token_level.examples import TaggedText, load_tagged
from stages.token_level.metrics import entity_table, token_classification_scores
from stages.token_level.model import TokenLevelModel
from stages.token_level.windows import WordWindow


@dataclass(frozen=True, slots=True)
class TaggedWindow:
    """A training item: a window, and the index of the label of each of its words."""

    window: WordWindow
    labels: tuple[int, ...]


class TokenClassifier(TokenLevelModel[TokenClassificationTask, TaggedText, TaggedWindow]):
    """Labels words."""

    @staticmethod
    def load(path: Path) -> list[TaggedText]:
        """The texts of a set."""
        return load_tagged(path)

    @staticmethod
    def outputs(task: TokenClassificationTask) -> tuple[str, ...]:
        """One a label."""
        return task.labels

    def items(self, texts: Sequence[TaggedText]) -> list[TaggedWindow]:
        """Windows of the texts, with their labels."""
        index = {label: number for number, label in enumerate(self.task.labels)}
        return [
            TaggedWindow(window, tuple(index[text.labels[word]] for word in window.words))
            for text in texts
            for window in self.windows.of_words(text.words)
        ]

    def loss(self, batch: list[TaggedWindow]) -> Tensor:
        """Cross-entropy, mean over the words of the batch."""
        scores = self._word_scores([item.window for item in batch])
        gold = torch.tensor([label for item in batch for label in item.labels], device=scores.device)
        return F.cross_entropy(scores, gold)

    def predict(self, texts: Sequence[TaggedText], recorder: Recorder, phase: str) -> list[tuple[str, ...]]:
        """The label of each word; the first one (of entities: O) for a word that has no token."""
        labels = self.task.labels
        usual = "O" if "O" in labels else labels[0]
        found = [[usual] * len(text.words) for text in texts]
        windows = [(row, window) for row, text in enumerate(texts) for window in self.windows.of_words(text.words)]
        for chosen in self.batches([window.encoded for _, window in windows], recorder, phase):
            scores = self._word_scores([windows[number][1] for number in chosen])
            guesses = iter(scores.argmax(dim=1).tolist())
            for number in chosen:
                row, window = windows[number]
                for word in window.words:
                    found[row][word] = labels[next(guesses)]
        return [tuple(row) for row in found]

    def evaluate(
        self, texts: Sequence[TaggedText], recorder: Recorder, phase: str
    ) -> tuple[Score, list[tuple[str, ...]]]:
        """Scores and labels of annotated texts."""
        guess = self.predict(texts, recorder, phase)
        return token_classification_scores([text.labels for text in texts], guess), guess

    def table(self, texts: Sequence[TaggedText], predicted: Sequence[tuple[str, ...]]) -> list[dict[str, object]]:
        """How well each type of entity is found."""
        return entity_table([text.labels for text in texts], predicted)

    def _word_scores(self, windows: Sequence[WordWindow]) -> Tensor:
        """[sum of words, C] scores."""
        scores, starts = self.scores([window.encoded for window in windows])
        rows = [row for row, window in enumerate(windows) for _ in window.places]
        places = torch.tensor([place for window in windows for place in window.places], device=scores.device)
        return scores[rows, starts[rows] + places]
