"""Finds the answer in what a model wrote, and takes the majority of several answers.

Wei et al., NeurIPS 2022, take the answer after "The answer is"; Kojima et al., NeurIPS 2022, the first answer that
follows such a sentence. Wang et al., ICLR 2023, take the majority (self-consistency).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.common.errors import InputError

GROUP = "answer"
"""Name of the group of a regular expression that matches the answer."""
WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_LETTER = rf"[^\W_{WITHOUT_SPACES}]"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `text`: where the label was searched for, None if nothing matches; `label`: None if it names none."""

    text: str | None
    label: str | None


class AnswerParser:
    """Finds the answer in what a model wrote.

    The first word that names a label is the answer. It is searched for in the match of the regular expression, else in
    the line after the last `trigger`. Case does not matter.

    Args:
        answers: Label -> words that name it.
        trigger: Text before an answer.
        pattern: Regular expression with a group `answer`, whose last match counts; None: the trigger finds the answer.
    """

    def __init__(self, answers: Mapping[str, Sequence[str]], trigger: str, pattern: str | None = None) -> None:
        self._labels = {word.casefold(): label for label, words in answers.items() for word in words}
        longest_first = sorted(self._labels, key=len, reverse=True)
        self._words = re.compile("|".join(map(_whole_word, longest_first)))
        self._trigger = re.compile(re.escape(trigger), re.IGNORECASE)
        self._pattern = None if pattern is None else parsed_pattern(pattern)

    def __call__(self, rationale: str, answer: str | None = None) -> Answer:
        """Returns the answer.

        Args:
            rationale: What the model wrote after the question.
            answer: What it wrote after the trigger that followed its rationale, if it was prompted for an answer.
        """
        if self._pattern is not None:
            matches = list(self._pattern.finditer(rationale if answer is None else f"{rationale} {answer}"))
            found = matches[-1][GROUP] if matches else None
        else:
            found = _first_line(answer if answer is not None else self._after_trigger(rationale))
        match = self._words.search((found or "").casefold())
        return Answer(found, None if match is None else self._labels[match[0]])

    def _after_trigger(self, text: str) -> str:
        ends = [match.end() for match in self._trigger.finditer(text)]
        return text[ends[-1] :] if ends else ""


def _first_line(text: str) -> str | None:
    """Returns the first line with text; None if there is none."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else None


def _whole_word(word: str) -> str:
    """Returns a regular expression for a word, which matches no part of a longer one."""
    starts, ends = (re.match(_LETTER, character) is not None for character in (word[0], word[-1]))
    return f"{f'(?<!{_LETTER})' if starts else ''}{re.escape(word)}{f'(?!{_LETTER})' if ends else ''}"


def parsed_pattern(pattern: str) -> re.Pattern[str]:
    """Returns a compiled regular expression.

    Raises:
        InputError: it cannot be parsed, or has no group `answer`.
    """
    try:
        parsed = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{pattern!r} is not a regular expression ({error}).", "Correct it.", key="answer_pattern"
        ) from None
    if GROUP not in parsed.groupindex:
        raise InputError(
            f"{pattern!r} has no group {GROUP!r}, so it does not say which part is the answer.",
            r"Name it, for example: 'the answer is (?P<answer>\w+)'.",
            key="answer_pattern",
        )
    return parsed


@dataclass(frozen=True, slots=True)
class Majority:
    """The most frequent label; None without votes. `votes`: label -> their number, most frequent first."""

    label: str | None
    votes: Mapping[str, int]
    is_tie: bool


def majority(labels: Sequence[str | None]) -> Majority:
    """Returns the most frequent label. Of equally frequent ones it is the one that was named first.

    Args:
        labels: The label of each rationale; None does not vote.
    """
    votes = Counter(label for label in labels if label is not None).most_common()
    is_tie = len(votes) > 1 and votes[0][1] == votes[1][1]
    return Majority(votes[0][0] if votes else None, dict(votes), is_tie)
