"""Extracts answers: a linear head scores start and end, on a frozen backbone with a soft prompt.

As in BERT (Devlin et al., NAACL 2019, sections 4.2 and 4.3): every token of the context has a score as start and as
end. The first token of the input represents "no answer".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.metrics.classification import Score
from stages.common.protocols import Recorder
from stages.token_level.config import QuestionAnsweringTask
from stages.token_level.examples import Question, load_questions
from stages.token_level.metrics import squad_scores
from stages.token_level.model import TokenLevelModel
from stages.token_level.windows import ContextWindow

NOWHERE = 0
"""Place of the token that stands for: no answer in this window."""


@dataclass(frozen=True, slots=True)
class AnswerWindow:
    """A training item: a window, and the first and last token of the answer in it, both `NOWHERE` if it is not."""

    window: ContextWindow
    begin: int
    end: int


class SpanExtractor(TokenLevelModel[QuestionAnsweringTask, Question, AnswerWindow]):
    """Finds answers."""

    @staticmethod
    def load(path: Path) -> list[Question]:
        """The texts of a set."""
        return load_questions(path)

    @staticmethod
    def outputs(task: QuestionAnsweringTask) -> tuple[str, ...]:
        """Two."""
        del task
        return ("begin", "end")

    def items(self, texts: Sequence[Question]) -> list[AnswerWindow]:
        """All windows of all questions, with the first of the given answers."""
        return [
            AnswerWindow(window, *_place(item, window))
            for item in texts
            for window in self.windows.of_question(item, self.task.overlap)
        ]

    def loss(self, batch: list[AnswerWindow]) -> Tensor:
        """Cross-entropy over the places of a window, mean of beginning and end."""
        scores = self._place_scores([item.window for item in batch])
        gold = torch.tensor([[item.begin, item.end] for item in batch], device=scores.device)
        return F.cross_entropy(scores, gold)  # the places are the classes

    def predict(self, texts: Sequence[Question], recorder: Recorder, phase: str) -> list[str]:
        """The best answer of each question in any of its windows; "" where none is better (`unanswerable` only)."""
        windows = [
            (row, window)
            for row, item in enumerate(texts)
            for window in self.windows.of_question(item, self.task.overlap)
        ]
        best: list[tuple[float, str]] = [(-float("inf"), "")] * len(texts)
        none = [float("inf")] * len(texts)
        for chosen in self.batches([window.encoded for _, window in windows], recorder, phase):
            scores = self._place_scores([windows[number][1] for number in chosen]).cpu()
            for number, values in zip(chosen, scores, strict=True):
                row, window = windows[number]
                best[row] = max(best[row], self._best(values, window, texts[row].context))
                none[row] = min(none[row], float(values[NOWHERE].sum()))
        pairs = zip(best, none, strict=True)
        return ["" if self.task.unanswerable and score < absent else text for (score, text), absent in pairs]

    def evaluate(self, texts: Sequence[Question], recorder: Recorder, phase: str) -> tuple[Score, list[str]]:
        """Scores and answers."""
        guess = self.predict(texts, recorder, phase)
        return squad_scores([[answer.text for answer in item.answers] for item in texts], guess), guess

    def table(self, texts: Sequence[Question], predicted: Sequence[str]) -> list[dict[str, object]]:
        """Some questions with the right and the found answer."""
        return [
            {"question": item.question, "right": item.answers[0].text if item.answers else "", "found": told}
            for item, told in list(zip(texts, predicted, strict=True))[:50]
        ]

    def _best(self, values: Tensor, window: ContextWindow, context: str) -> tuple[float, str]:
        """Score and text of the best answer in a window. values: [L, 2]."""
        size = len(window.characters)
        if not size:
            return -float("inf"), ""
        begin, end = values[window.start : window.start + size].unbind(dim=1)
        sums = begin[:, None] + end[None, :]
        allowed = torch.ones_like(sums).triu().tril(self.task.max_answer_tokens - 1).bool()
        place = int(sums.masked_fill(~allowed, -float("inf")).argmax())
        first, last = divmod(place, size)
        text = context[window.characters[first][0] : window.characters[last][1]].strip()
        return float(sums[first, last]), text

    def _place_scores(self, windows: Sequence[ContextWindow]) -> Tensor:
        """[B, L, 2] scores of places in a window, minus infinity where no answer can begin or end."""
        scores, starts = self.scores([window.encoded for window in windows])
        longest = max(len(window.encoded.ids) for window in windows)
        places = torch.arange(longest, device=scores.device)
        index = (starts[:, None] + places).clamp(max=scores.shape[1] - 1)
        moved = scores.gather(1, index[:, :, None].expand(-1, -1, 2))
        first = torch.tensor([window.start for window in windows], device=scores.device)[:, None]
        count = torch.tensor([len(window.characters) for window in windows], device=scores.device)[:, None]
        allowed = ((places >= first) & (places < first + count)) | (places == NOWHERE)
        return moved.masked_fill(~allowed[:, :, None], -float("inf"))


def _place(item: Question, window: ContextWindow) -> tuple[int, int]:
    """First and last token of the first answer in a window."""
    if not item.answers:
        return NOWHERE, NOWHERE
    begin = item.answers[0].start
    end = begin + len(item.answers[0].text)
    inside = [number for number, (one, other) in enumerate(window.characters) if one < end and other > begin]
    whole = inside and window.characters[inside[0]][0] <= begin and window.characters[inside[-1]][1] >= end
    return (window.start + inside[0], window.start + inside[-1]) if whole else (NOWHERE, NOWHERE)
