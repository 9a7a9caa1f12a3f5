"""The heads of token-level models: linear layers on a frozen backbone with a soft prompt, and their loader.

`SpanExtractor` extracts answers as in BERT (Devlin et al., NAACL 2019, sections 4.2 and 4.3): every token of the
context has a score as start and as end, and another token represents "no answer" (windows.py). `TokenClassifier`
labels words, as in P-tuning v2 (Liu et al., ACL 2022). Letters in names of tensors: B windows, L tokens, 2 start and
end, T tokens of the context, W words of all windows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.losses import mean_share
from stages.common.prompts.loader import ModelLoader
from stages.common.protocols import Recorder
from stages.token_level.config import (
    OUTSIDE,
    SERVING_FILE,
    QuestionAnsweringTask,
    TokenClassificationTask,
    TokenLevelServingConfig,
    TokenLevelTaskConfig,
)
from stages.token_level.examples import Question, TaggedText, load_questions, load_tagged
from stages.token_level.metrics import entity_table, squad_scores, token_classification_scores
from stages.token_level.model import TokenLevelEvaluation, TokenLevelModel
from stages.token_level.windows import ContextWindow, WordWindow

MAX_LOGGED = 50
"""Rows of the table of answers."""


@dataclass(frozen=True, slots=True)
class AnswerWindow:
    """A training item: a window, and the first and the last token of the answer. Both are the token for "no answer" if
    the window does not contain the entire answer.
    """

    window: ContextWindow
    first: int
    last: int


class ScoredAnswer(NamedTuple):
    """An answer and its score: start plus end."""

    score: float
    text: str


class SpanExtractor(TokenLevelModel[QuestionAnsweringTask, Question, AnswerWindow]):
    """Predicts the answer to each question."""

    @staticmethod
    def load(path: Path) -> list[Question]:
        return load_questions(path)

    @staticmethod
    def outputs(task: QuestionAnsweringTask) -> tuple[str, ...]:
        """Returns two outputs: the scores of the start and of the end."""
        del task
        return ("begin", "end")

    def items(self, examples: Sequence[Question]) -> list[AnswerWindow]:
        """Returns all windows of all questions, with the first of the gold answers."""
        return [
            _answer_window(item, window)
            for item in examples
            for window in self.windows.of_question(item, self.task.overlap)
        ]

    def loss(self, part: list[AnswerWindow], batch: list[AnswerWindow] | None = None) -> Tensor:
        """Returns the share of the cross-entropy over the tokens of a window, mean of start and end."""
        scores_BL2 = self._token_scores([item.window for item in part])
        gold_B2 = torch.tensor([[item.first, item.last] for item in part], device=scores_BL2.device)
        return F.cross_entropy(scores_BL2, gold_B2) * mean_share(part, batch or part)  # the tokens are the classes

    def predict(self, examples: Sequence[Question], recorder: Recorder, phase: str) -> list[str]:
        """Returns the best answer in any window of each question; "" if none is better (`unanswerable` only)."""
        windows = [
            (row, window)
            for row, item in enumerate(examples)
            for window in self.windows.of_question(item, self.task.overlap)
        ]
        best = [ScoredAnswer(-float("inf"), "")] * len(examples)
        no_answer = [float("inf")] * len(examples)
        for numbers in self.batches([window.encoded for _, window in windows], recorder, phase):
            scores_BL2 = self._token_scores([windows[number][1] for number in numbers]).cpu()
            for number, scores_L2 in zip(numbers, scores_BL2, strict=True):
                row, window = windows[number]
                best[row] = max(best[row], self._best(scores_L2, window, examples[row].context))
                no_answer[row] = min(no_answer[row], float(scores_L2[window.no_answer].sum()))
        return [
            "" if self.task.unanswerable and answer.score < absent else answer.text
            for answer, absent in zip(best, no_answer, strict=True)
        ]

    def evaluate(self, examples: Sequence[Question], recorder: Recorder, phase: str) -> TokenLevelEvaluation:
        predicted = self.predict(examples, recorder, phase)
        gold = [[answer.text for answer in item.answers] for item in examples]
        return TokenLevelEvaluation(squad_scores(gold, predicted), predicted)

    def table(self, examples: Sequence[Question], predicted: Sequence[str]) -> list[dict[str, object]]:
        """Returns the first questions with the gold and the predicted answer."""
        return [
            {"question": item.question, "gold": item.answers[0].text if item.answers else "", "predicted": answer}
            for item, answer in list(zip(examples, predicted, strict=True))[:MAX_LOGGED]
        ]

    def _best(self, scores_L2: Tensor, window: ContextWindow, context: str) -> ScoredAnswer:
        """Returns the best answer in a window."""
        size = len(window.characters)
        if not size:
            return ScoredAnswer(-float("inf"), "")
        start_T, end_T = scores_L2[window.start : window.start + size].unbind(dim=1)
        sums_TT = start_T[:, None] + end_T[None, :]
        is_allowed_TT = torch.ones_like(sums_TT).triu().tril(self.task.max_answer_tokens - 1).bool()
        index = int(sums_TT.masked_fill(~is_allowed_TT, -float("inf")).argmax())
        first, last = divmod(index, size)
        text = context[window.characters[first].start : window.characters[last].end].strip()
        return ScoredAnswer(float(sums_TT[first, last]), text)

    def _token_scores(self, windows: Sequence[ContextWindow]) -> Tensor:
        """Returns the scores of the tokens, [B, L, 2], padded on the right; minus infinity outside the context."""
        scores_BL2, starts_B = self.scores([window.encoded for window in windows])
        max_length = max(len(window.encoded.ids) for window in windows)
        positions_L = torch.arange(max_length, device=scores_BL2.device)
        index_BL = (starts_B[:, None] + positions_L).clamp(max=scores_BL2.shape[1] - 1)
        shifted_BL2 = scores_BL2.gather(1, index_BL[:, :, None].expand(-1, -1, 2))
        first_B1 = torch.tensor([window.start for window in windows], device=scores_BL2.device)[:, None]
        size_B1 = torch.tensor([len(window.characters) for window in windows], device=scores_BL2.device)[:, None]
        is_context_BL = (positions_L >= first_B1) & (positions_L < first_B1 + size_B1)
        no_answer_B1 = torch.tensor([window.no_answer for window in windows], device=scores_BL2.device)[:, None]
        is_allowed_BL = is_context_BL | (positions_L == no_answer_B1)
        return shifted_BL2.masked_fill(~is_allowed_BL[:, :, None], -float("inf"))


def _answer_window(item: Question, window: ContextWindow) -> AnswerWindow:
    """Returns the training item with the tokens of the first answer."""
    nothing = AnswerWindow(window, window.no_answer, window.no_answer)
    if not item.answers:
        return nothing
    start = item.answers[0].start
    end = start + len(item.answers[0].text)
    inside = [number for number, token in enumerate(window.characters) if token.start < end and token.end > start]
    if not inside:
        return nothing
    first, last = inside[0], inside[-1]
    if window.characters[first].start > start or window.characters[last].end < end:
        return nothing
    return AnswerWindow(window, window.start + first, window.start + last)


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

    def loss(self, part: list[TaggedWindow], batch: list[TaggedWindow] | None = None) -> Tensor:
        """Returns the share of the cross-entropy, which is the mean over the words of the batch."""
        scores_WC = self._word_scores([item.window for item in part])
        labels, all_labels = ([label for item in items for label in item.labels] for items in (part, batch or part))
        gold_W = torch.tensor(labels, device=scores_WC.device)
        return F.cross_entropy(scores_WC, gold_W) * mean_share(labels, all_labels)

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


def model_class_for(task: TokenLevelTaskConfig) -> type[TokenLevelModel[Any, Any, Any]]:
    """Returns the model class of a task."""
    return TokenClassifier if task.kind == "tokens" else SpanExtractor


def load_token_level_model(folder: Path) -> TokenLevelModel[Any, Any, Any]:
    """Loads the prompt and head that the tuning stage wrote to `folder`, on their backbone.

    Raises:
        InputError: they were trained for another backbone.
    """
    config = TokenLevelServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
    model_class = model_class_for(config.task)
    backbone, prompt, head = ModelLoader().load_prompt(folder, config.backbone, model_class.outputs(config.task))
    return model_class(config.task, backbone, config.backbone, prompt, head)
