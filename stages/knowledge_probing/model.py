"""One relation over a frozen language model: the loss of its vectors, and the ranks of answers.

Letters in names of tensors: B facts, V tokens of the vocabulary, W candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stages.common.errors import PatternError
from stages.common.models.backbones.base import Backbone
from stages.common.models.batching import autocast, batches_by_length
from stages.common.models.cloze.label_word_scores import word_scores
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.syntax import FieldRef, Mask, Pattern
from stages.common.patterns.verbalizers import Word, word_tokens
from stages.common.prompts.soft_prompt import Prompt
from stages.knowledge_probing.config import Candidates
from stages.knowledge_probing.facts import Fact

TOP = 10
"""Answers that are kept per fact."""


class FactItem(NamedTuple):
    """A training item: an encoded fact, and the tokens of its answer."""

    encoded: Encoded
    answer: Word


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rank of the best right answer, from 1, and the most likely answers. None: the answer cannot be ranked."""

    rank: int | None
    answers: tuple[str, ...] = ()


class RelationModel:
    """The prompt of a relation: `answers` are all of its answers, and `candidates` what they are compared with."""

    def __init__(
        self,
        pattern: Pattern,
        backbone: Backbone,
        *,
        max_length: int,
        candidates: Candidates,
        answers: Sequence[str],
        prompt: Prompt | None = None,
        is_autocast: bool = False,
    ) -> None:
        """
        Raises:
            PatternError: a causal model would have to answer before it has read the subject.
        """
        self.backbone = backbone
        self.candidates: Candidates = candidates
        self.prompt = prompt
        self.is_autocast = is_autocast
        self.words = {text: tuple(word_tokens(text, backbone.tokenizer)) for text in answers}
        """Answer -> its tokens; empty if it has none."""
        self.words = {text: word for text, word in self.words.items() if word and not self._is_unknown(word)}
        if candidates == "vocabulary":
            self.words = {text: word for text, word in self.words.items() if len(word) == 1}
        parts = [type(part) for part in pattern.parts if isinstance(part, Mask | FieldRef)]
        if backbone.family == "causal" and candidates == "vocabulary" and parts[0] is Mask:
            raise PatternError(
                f"the template of {pattern.name!r} has the answer before the subject, which a causal model has not "
                "read when it answers.",
                "Set candidates: relation, or use a masked backbone.",
            )
        longest = max((len(word) for word in self.words.values()), default=1)
        self.encoder = Encoder(
            pattern,
            backbone.tokenizer,
            backbone.family,
            max_length,
            num_reserved=backbone.num_reserved_tokens(longest, ends_in_mask=pattern.ends_in_mask),
            soft_blocks=prompt is not None,
        )

    def _is_unknown(self, word: Word) -> bool:
        return self.backbone.tokenizer.unk_token_id in word and self.backbone.tokenizer.unk_token_id is not None

    def items(self, facts: Sequence[Fact]) -> list[FactItem]:
        """Encodes facts with their first answer, without those whose answer cannot be scored."""
        return [
            FactItem(self._encode(item), self.words[item.answers[0]]) for item in facts if item.answers[0] in self.words
        ]

    def _encode(self, fact: Fact) -> Encoded:
        return self.encoder(fact.example)

    def loss(self, items: Sequence[FactItem]) -> Tensor:
        """Returns the mean negative log-likelihood of the answers, with gradients for the vectors."""
        words = list(dict.fromkeys(item.answer for item in items))
        encoded = [item.encoded for item in items]
        prompt = None if self.prompt is None else self.prompt(encoded)
        with autocast(self.is_autocast):
            scores_BW = word_scores(self.backbone, encoded, words, likelihood=True, prompt=prompt, training=True)
        columns = torch.tensor([words.index(item.answer) for item in items], device=scores_BW.device)
        return -scores_BW.gather(1, columns[:, None]).mean()

    def rank(self, facts: Sequence[Fact]) -> list[Ranked]:
        """Returns the rank of the best right answer of each fact, in their order."""
        ranked = [Ranked(None)] * len(facts)
        rows = [row for row, fact in enumerate(facts) if any(text in self.words for text in fact.answers)]
        encoded = [self._encode(facts[row]) for row in rows]
        width = 1 if self.candidates == "vocabulary" else max(1, len(self.words))
        sizes = [len(item.ids) * width for item in encoded]
        with self.backbone.evaluation():
            for numbers in batches_by_length(sizes, self.backbone.eval_batch_tokens):
                part = [encoded[number] for number in numbers]
                results = self._ranks(part, [facts[rows[number]] for number in numbers])
                for number, result in zip(numbers, results, strict=True):
                    ranked[rows[number]] = result
        return ranked

    def _ranks(self, encoded: Sequence[Encoded], facts: Sequence[Fact]) -> Iterator[Ranked]:
        prompt = None if self.prompt is None else self.prompt(encoded)
        is_vocabulary = self.candidates == "vocabulary"
        with autocast(self.is_autocast):
            if is_vocabulary:
                scores = self.backbone.vocabulary_logits(self.backbone.batch(encoded, prompt), prompt)
                scores[:, self.backbone.tokenizer.all_special_ids] = -torch.inf
            else:
                words = list(self.words.values())
                scores = word_scores(self.backbone, encoded, words, likelihood=True, prompt=prompt)
                scores = scores / torch.tensor([len(word) for word in words], device=scores.device)
        texts = list(self.words)
        for row, fact in zip(scores.float().cpu(), facts, strict=True):
            right = [text for text in fact.answers if text in self.words]
            columns = [self.words[text][0] if is_vocabulary else texts.index(text) for text in right]
            best = row[columns].max()
            top = row.topk(min(TOP, len(row))).indices.tolist()
            names = self.backbone.tokenizer.batch_decode([[token] for token in top]) if is_vocabulary else [
                texts[column] for column in top
            ]  # fmt: skip
            yield Ranked(1 + int((row > best).sum()), tuple(name.strip() for name in names))
