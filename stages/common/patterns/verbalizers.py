"""Verbalizers: looks up the token ids of the label words of each label.

A word is tokenized as it appears inside a sentence. Works with a tokenizer of transformers and with a bare one of the
tokenizers library, so that the planner loads no transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import VerbalizerError
from stages.common.patterns.config import LabelScore

Word = tuple[int, ...]
"""Token ids of a label word."""
ANCHORS = ("a", ",", "。")
"""Texts before a word, whose tokens do not merge with those of the word; the first one that fits is used."""
WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """The words of each label as token ids, in the order of the task's labels."""

    labels: tuple[str, ...]
    words: tuple[tuple[Word, ...], ...]
    score: LabelScore = "mean_logit"

    @classmethod
    def of(cls, words: Mapping[str, Sequence[str]], tokenizer: Any, score: LabelScore = "mean_logit") -> Verbalizer:
        """Looks up the tokens of every word.

        Args:
            words: Label -> its words, in the order of the scores.
            tokenizer: A tokenizer of transformers, or a bare one of the tokenizers library.
            score: How words become the score of their label.

        Raises:
            VerbalizerError: a word is not in the vocabulary, or two labels have the same words.
        """
        ids = {
            label: tuple(_token_ids(word, label, tokenizer) for word in label_words)
            for label, label_words in words.items()
        }
        labels = tuple(ids)
        for first in range(len(labels)):
            for second in range(first):
                if set(ids[labels[first]]) == set(ids[labels[second]]):
                    raise VerbalizerError(
                        f"the labels {labels[second]!r} and {labels[first]!r} have the same words: "
                        f"{list(words[labels[first]])}.",
                        "Give each label its own words.",
                    )
        return cls(labels, tuple(ids.values()), score)

    @property
    def flat(self) -> tuple[tuple[int, ...], ...]:
        """All words, label after label."""
        return tuple(word for words in self.words for word in words)

    @property
    def longest(self) -> int:
        """Tokens of the longest word; 1 without words."""
        return max((len(word) for word in self.flat), default=1)

    @property
    def needs_likelihood(self) -> bool:
        """True if words are scored by log-likelihoods instead of raw logits."""
        return self.score != "mean_logit" or self.longest > 1


def found_words(folder: Path) -> dict[str, list[str]]:
    """Returns label -> words that the verbalizer search wrote to `folder`."""
    words: dict[str, list[str]] = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    return words


def word_tokens(word: str, tokenizer: Any) -> list[int]:
    """Returns the token ids of a word inside a sentence.

    They are what follows the tokens of other text: " good" in a byte-level vocabulary, "▁good" of SentencePiece, "good"
    of WordPiece. Scripts without spaces, such as Chinese, have none before a word.
    """
    text = word.strip()
    if not text:
        return []
    space = "" if WITHOUT_SPACES.match(text) else " "
    for anchor in ANCHORS:
        before, full = _plain_ids(anchor, tokenizer), _plain_ids(anchor + space + text, tokenizer)
        if full[: len(before)] == before:
            return full[len(before) :]
    return _plain_ids(space + text, tokenizer)


def _plain_ids(text: str, tokenizer: Any) -> list[int]:
    if hasattr(tokenizer, "encode_batch"):  # a bare tokenizer of the tokenizers library
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _token_ids(word: str, label: str, tokenizer: Any) -> tuple[int, ...]:
    ids = word_tokens(word, tokenizer)
    tokens = [_token(item, tokenizer) for item in ids]
    if not ids:
        raise VerbalizerError(f"the label word {word!r} of {label!r} is empty.", "Write a word.")
    if _unknown_tokens(tokenizer) & set(tokens):
        raise VerbalizerError(
            f"the label word {word!r} of {label!r} is not in the backbone's vocabulary.",
            "Choose another word.",
        )
    return tuple(ids)


def _token(item: int, tokenizer: Any) -> str:
    if hasattr(tokenizer, "id_to_token"):
        return str(tokenizer.id_to_token(item))
    return str(tokenizer.convert_ids_to_tokens(item))


def _unknown_tokens(tokenizer: Any) -> set[str]:
    return {"[UNK]", "<unk>", str(getattr(tokenizer, "unk_token", "[UNK]"))}
