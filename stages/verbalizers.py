"""Label words to token ids, and the scores of labels from the logits of their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import VerbalizerError
from stages.patterns import Family

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """The token ids of each label's words, in the order of the task's labels."""

    labels: tuple[str, ...]
    word_ids: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, words: Mapping[str, Sequence[str]], tokenizer: Any, family: Family) -> Verbalizer:
        """Looks up every word as one token.

        Args:
            words: Label -> its words, in the order of the logits.
            tokenizer: A tokenizer of transformers, or a bare one of the tokenizers library.
            family: Family of the backbone.

        Raises:
            VerbalizerError: a word is unknown or takes several tokens, or two labels have the same words.
        """
        ids = {
            label: tuple(_token_id(word, label, tokenizer, family) for word in found) for label, found in words.items()
        }
        labels = tuple(ids)
        for first in range(len(labels)):
            for second in range(first):
                if set(ids[labels[first]]) == set(ids[labels[second]]):
                    raise VerbalizerError(
                        f"the labels {labels[second]!r} and {labels[first]!r} have the same words: "
                        f"{list(words[labels[first]])}.",
                        "Give each label words of its own.",
                    )
        return cls(labels, tuple(ids.values()))

    @property
    def flat_ids(self) -> tuple[int, ...]:
        """All word ids, label after label."""
        return tuple(item for ids in self.word_ids for item in ids)

    def scores(self, word_logits: Tensor) -> Tensor:
        """Label scores: the mean raw logit of a label's words, as in PET.

        Args:
            word_logits: [B, W], the logits of `flat_ids` at the mask.

        Returns:
            [B, C], one score for each label.
        """
        import torch

        groups = torch.split(word_logits, [len(ids) for ids in self.word_ids], dim=1)
        return torch.stack([group.mean(dim=1) for group in groups], dim=1)


def word_tokens(word: str, tokenizer: Any) -> list[int]:
    """Token ids of a word as it stands inside a sentence: with a space before it, which BPE vocabularies need."""
    text = " " + word.strip()
    if hasattr(tokenizer, "encode_batch"):  # a bare tokenizer: no import of transformers for a plan
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _token_id(word: str, label: str, tokenizer: Any, family: Family) -> int:
    ids = word_tokens(word, tokenizer)
    tokens = [_token(item, tokenizer) for item in ids]
    if family == "seq2seq" and len(ids) == 2 and tokens[0] == "▁":
        ids, tokens = ids[1:], tokens[1:]
    if not ids or tokens[0] in _unknown(tokenizer):
        raise VerbalizerError(
            f"the label word {word!r} of {label!r} is not in the backbone's vocabulary.",
            "Choose another word.",
        )
    if len(ids) > 1:
        raise VerbalizerError(
            f"the label word {word!r} of {label!r} takes {len(ids)} tokens: {tokens}.",
            "Choose a word of one token, as a shorter or more common one.",
        )
    return ids[0]


def _token(item: int, tokenizer: Any) -> str:
    if hasattr(tokenizer, "id_to_token"):
        return str(tokenizer.id_to_token(item))
    return str(tokenizer.convert_ids_to_tokens(item))


def _unknown(tokenizer: Any) -> set[str]:
    return {"[UNK]", "<unk>", str(getattr(tokenizer, "unk_token", "[UNK]"))}
