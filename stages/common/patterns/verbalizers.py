"""Verbalizers: looks up the token ids of the label words of each label.

A word is tokenized as it appears inside a sentence, with a space before it, which BPE vocabularies need. Works with a
tokenizer of transformers and with a bare one of the tokenizers library, so that the planner loads no transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import VerbalizerError
from stages.common.patterns.config import Family, LabelScore

Word = tuple[int, ...]
"""Token ids of a label word."""


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """The words of each label as token ids, in the order of the task's labels."""

    labels: tuple[str, ...]
    words: tuple[tuple[Word, ...], ...]
    score: LabelScore = "mean_logit"

    @classmethod
    def of(
        cls, words: Mapping[str, Sequence[str]], tokenizer: Any, family: Family, score: LabelScore = "mean_logit"
    ) -> Verbalizer:
        """Looks up the tokens of every word.

        Args:
            words: Label -> its words, in the order of the scores.
            tokenizer: A tokenizer of transformers, or a bare one of the tokenizers library.
            family: Family of the backbone.
            score: How words become the score of their label.

        Raises:
            VerbalizerError: a word is not in the vocabulary, or two labels have the same words.
        """
        ids = {
            label: tuple(_token_ids(word, label, tokenizer, family) for word in label_words)
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
    """Returns the token ids of a word inside a sentence: with a space before it, which BPE vocabularies need."""
    text = " " + word.strip()
    if hasattr(tokenizer, "encode_batch"):  # a bare tokenizer of the tokenizers library
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _token_ids(word: str, label: str, tokenizer: Any, family: Family) -> tuple[int, ...]:
    ids = word_tokens(word, tokenizer)
    tokens = [_token(item, tokenizer) for item in ids]
    if family == "seq2seq" and len(ids) > 1 and tokens[0] == "▁":
        ids, tokens = ids[1:], tokens[1:]
    if not ids or _unknown_tokens(tokenizer) & set(tokens):
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
