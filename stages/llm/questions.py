"""The chat about one text: instruction, demonstrations, text; and the label in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.examples import Example, one_label
from stages.llm.answers import Request, request
from stages.llm.config import LlmConfig
from stages.llm.messages import Message, message

ANSWER_TOKENS = 4
"""Tokens of an answer, for estimates."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Writes the chat about each text.

    Args:
        config: The member.
        train_set: Labeled examples, of which the demonstrations are taken.
    """

    config: LlmConfig
    train_set: Sequence[Example]

    def request(self, example: Example) -> Request:
        """Returns the request for the label of one example."""
        return request(self.config.model, self.chat(example), max_answer_tokens=self.config.max_answer_tokens)

    def chat(self, example: Example) -> list[Message]:
        """Returns the messages for one example. It is never among its own demonstrations."""
        messages = [message("system", self._instruction())]
        for item in self._demonstrations(example):
            messages += [message("user", self._text(item)), message("assistant", one_label(item.label))]
        return [*messages, message("user", self._text(example))]

    def _instruction(self) -> str:
        config = self.config
        lines = [config.instruction.replace("{labels}", ", ".join(config.labels))]
        lines += [f"{label}: {config.descriptions[label]}" for label in config.labels if label in config.descriptions]
        return "\n".join(lines)

    def _demonstrations(self, example: Example) -> list[Example]:
        """Returns the first examples of each label, the labels in turn."""
        texts = self._text(example)
        others = [item for item in self.train_set if self._text(item) != texts]
        by_label = [[item for item in others if item.label == label] for label in self.config.labels]
        return [items[turn] for turn in range(self.config.shots) for items in by_label if turn < len(items)]

    def _text(self, example: Example) -> str:
        fields = self.config.fields
        texts = [example.fields[name][: self.config.max_characters] for name in fields]
        if len(texts) == 1:
            return texts[0]
        return "\n".join(f"{name}: {text}" for name, text in zip(fields, texts, strict=True))


def find_label(answer: str, labels: Sequence[str]) -> int | None:
    """Returns the index of the label that an answer names; None if it names none, or several.

    Case, quotes and punctuation around the label do not matter. Of labels that contain each other, such as "sports" and
    "motor sports", the longest one counts.

    >>> find_label('Label: "Motor Sports".', ["sports", "motor sports"])
    1
    """
    text = _normalized(answer)
    found = [index for index, label in enumerate(labels) if _contains(text, _normalized(label))]
    longest = [
        index
        for index in found
        if not any(
            other != index and _contains(_normalized(labels[other]), _normalized(labels[index])) for other in found
        )
    ]
    return longest[0] if len(longest) == 1 else None


def _normalized(text: str) -> str:
    """Returns a text in lower case, with single spaces and without anything but letters, digits and signs in words."""
    return " ".join(re.sub(r"[^\w+#-]|_", " ", text.casefold()).split())


def _contains(text: str, part: str) -> bool:
    """Returns True if `part` occurs in `text` as whole words. Scripts without spaces have no word borders."""
    if not part.isascii():
        return part in text
    return f" {part} " in f" {text} "
