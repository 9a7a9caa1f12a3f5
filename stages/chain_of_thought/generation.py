"""Continues texts with a causal model: batched, greedily or sampled.

`generate` of transformers computes the logits. Each text draws its tokens with random numbers of its own, so the texts
of a batch, the size of batches and the number of workers do not change what is written. Letters in names of tensors: B
texts of a batch, T new tokens, V vocabulary, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.batching import batches_by_length, shard_batches
from stages.common.protocols import Engine

Ids = tuple[int, ...]
OnProgress = Callable[[int, int], None]
"""Called with the number of texts that are continued, and that of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are sampled."""

    temperature: float
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue. `randoms`: T numbers from 0 to 1, one per new token; None: the most probable tokens."""

    ids: Ids
    randoms: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote. `is_cut`: whether it ended at the maximum number of tokens."""

    ids: Ids
    is_cut: bool


class Generator:
    """Continues texts.

    Args:
        backbone: A causal model.
        engine: Shares the batches among workers.

    Raises:
        InputError: transformers cannot generate with the model.
    """

    def __init__(self, backbone: Backbone, engine: Engine) -> None:
        if not hasattr(backbone.model, "generate"):
            raise InputError(
                f"{type(backbone.model).__name__} does not support generation.",
                "Use another backbone.",
                key="backbone.asset",
            )
        self._backbone = backbone
        self._engine = engine
        own = backbone.model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        self._end_ids = sorted({int(end) for end in (*ends, backbone.tokenizer.eos_token_id) if end is not None})

    def __call__(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        on_progress: OnProgress,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> list[Continuation]:
        """Returns the continuation of each text, without the token at its end.

        Args:
            prompts: [n] texts.
            max_new_tokens: T, the maximum number of new tokens.
            on_progress: Called after each batch.
            sampling: How tokens are sampled, for texts with random numbers.
            stop: Texts that end a continuation, of which they are a part.
        """
        written_nT = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long)
        is_cut_n = torch.zeros(len(prompts), dtype=torch.long)
        num_done = 0
        with self._backbone.evaluation(), _plain_generation(self._backbone.model):
            for rows, counts in shard_batches(self._batches(prompts, max_new_tokens), self._engine):
                if counts:
                    batch = self._continued([prompts[row] for row in rows], max_new_tokens, sampling, stop)
                    for row, item in zip(rows, batch, strict=True):
                        written_nT[row, : len(item.ids)] = torch.tensor(item.ids, dtype=torch.long) + 1
                        is_cut_n[row] = int(item.is_cut)
                num_done += len(rows) * self._engine.world_size
                on_progress(min(num_done, len(prompts)), len(prompts))
        written_nT, is_cut_n = self._engine.all_reduce_sum(written_nT), self._engine.all_reduce_sum(is_cut_n)
        return [
            Continuation(tuple(token - 1 for token in row if token), bool(is_cut))
            for row, is_cut in zip(written_nT.tolist(), is_cut_n.tolist(), strict=True)
        ]

    def _batches(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """Returns the rows of each batch: of similar length, or of one length where padding would change a text."""
        lengths = [len(item.ids) + max_new_tokens for item in prompts]
        batches = batches_by_length(lengths, self._backbone.eval_batch_tokens)
        if self._backbone.traits.padding == "left":
            return batches
        return [
            [row for row in batch if lengths[row] == length]
            for batch in batches
            for length in dict.fromkeys(lengths[row] for row in batch)
        ]

    def _continued(
        self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling | None, stop: Sequence[str]
    ) -> Iterator[Continuation]:
        backbone = self._backbone
        longest = max(len(item.ids) for item in prompts)
        ids_BL = torch.full((len(prompts), longest), backbone.pad_id)
        attention_BL = torch.zeros_like(ids_BL)
        for row, item in enumerate(prompts):
            ids_BL[row, longest - len(item.ids) :] = torch.tensor(item.ids)
            attention_BL[row, longest - len(item.ids) :] = 1
        randoms = [item.randoms for item in prompts if item.randoms is not None]
        stops = _StopTexts(backbone.tokenizer, stop, longest)
        written_BT = backbone.model.generate(
            input_ids=ids_BL.to(backbone.device),
            attention_mask=attention_BL.to(backbone.device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=False,  # a processor samples
                eos_token_id=self._end_ids or None,
                pad_token_id=backbone.pad_id,
            ),
            logits_processor=[_Sampler(sampling, torch.stack(randoms), longest)] if sampling and randoms else [],
            stopping_criteria=[stops] if stop else [],
        )[:, longest:].tolist()
        for row, tokens in enumerate(written_BT):
            end = next((index for index, token in enumerate(tokens) if token in self._end_ids), None)
            if end is None:
                end = stops.ends.get(row)
            yield Continuation(tuple(tokens[:end]), end is None)


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Hides the generation settings of a model, such as a temperature or a penalty, which `generate` would add."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _Sampler:
    """A logits processor of transformers: samples the next token of each text with its own random number, and leaves
    only this token.
    """

    def __init__(self, sampling: Sampling, randoms_BT: Tensor, start: int) -> None:
        self._sampling = sampling
        self._randoms_BT = randoms_BT
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns logits, [B, V], that are finite for the sampled token only."""
        sampling = self._sampling
        count = min(sampling.top_k or scores.shape[1], scores.shape[1])
        logits_BK, tokens_BK = scores.cpu().double().sort(dim=1, descending=True, stable=True)
        probabilities_BK = (logits_BK[:, :count] / sampling.temperature).softmax(dim=1)
        totals_BK = probabilities_BK.cumsum(dim=1)
        if sampling.top_p is not None:
            is_outside = totals_BK - probabilities_BK >= sampling.top_p
            totals_BK = probabilities_BK.masked_fill(is_outside, 0.0).cumsum(dim=1)
        numbers_B1 = self._randoms_BT[:, input_ids.shape[1] - self._start, None] * totals_BK[:, -1:]
        picked_B1 = (totals_BK <= numbers_B1).sum(dim=1, keepdim=True).clamp(max=count - 1)
        sampled_B1 = tokens_BK.gather(1, picked_B1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, sampled_B1, 0.0)


class _StopTexts:
    """A stopping criterion of transformers: ends a text that contains one of some texts. `ends`: row -> number of its
    new tokens up to there.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], start: int) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._start = start
        self._width = max((len(text.encode()) for text in texts), default=0) + 1
        self.ends: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Returns which texts are finished, [B]."""
        del scores
        length = input_ids.shape[1]
        tails = input_ids[:, max(self._start, length - self._width) :]
        for row, tail in enumerate(self._tokenizer.batch_decode(tails)):
            if row not in self.ends and any(text in tail for text in self._texts):
                self.ends[row] = length - self._start
        return torch.tensor([row in self.ends for row in range(len(input_ids))], device=input_ids.device)
