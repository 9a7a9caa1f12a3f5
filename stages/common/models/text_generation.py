"""Continues texts with a causal or seq2seq model, under a soft prompt if wanted: greedily, with beams, or sampled.

`generate` of transformers computes the logits. Each text draws its tokens with random numbers of its own, so the texts
of a batch, the size of batches and the number of workers do not change what is written.

Vectors before or inside a text are input embeddings. Keys and values of a deep prompt are a cache that `generate`
continues. The attention mask and the positions are those of a forward pass (`Backbone.hidden_states`): a prompt is
before the padding, which no token sees and no position counts.

Letters in names of tensors: B texts of a batch, L length, T new tokens, V vocabulary, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone, widen
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone, decoder_start_id
from stages.common.models.backbones.soft_input import SoftInput, SoftPrompt
from stages.common.models.batching import EncodedBatch, batches_by_length, shard_batches
from stages.common.patterns.encoding import Encoded
from stages.common.protocols import Engine

Ids = tuple[int, ...]
OnProgress = Callable[[int, int], None]
"""Called with the number of texts that are continued, and that of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are sampled. Every text needs random numbers."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Beams:
    """How the most likely text among several beginnings is searched for."""

    count: int
    length_penalty: float = 1.0
    """Power of the length by which the log-likelihood of a text is divided."""


GREEDY = Beams(count=1)


@dataclass(frozen=True, slots=True)
class TextStart:
    """A text to continue. `randoms`: T numbers from 0 to 1, one per new token, for samples."""

    encoded: Encoded
    randoms: Tensor | None = None

    @classmethod
    def of_ids(cls, ids: Ids, randoms: Tensor | None = None) -> TextStart:
        """Returns a text with these token ids."""
        return cls(Encoded(ids, (0,) * len(ids), len(ids) - 1), randoms)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote. `is_cut`: whether it ended at the maximum number of tokens."""

    ids: Ids
    is_cut: bool


def end_ids_of(backbone: Backbone) -> Ids:
    """Returns the tokens that end a text: that of the tokenizer, and those of the generation config of the model."""
    own = backbone.model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return tuple(sorted({int(end) for end in (*ends, backbone.tokenizer.eos_token_id) if end is not None}))


class Generator:
    """Continues texts.

    Args:
        backbone: A causal or seq2seq model.
        engine: Shares the batches among workers. Workers that each hold a part of the weights run all of them.
        prompt: The soft prompt of the texts, if any.
    num_more: Positions that it adds to each of them.
        end_ids: Tokens that end a text.

    Raises:
        InputError: transformers cannot generate with the model.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: Engine,
        *,
        prompt: SoftPrompt | None = None,
        num_more: int = 0,
        end_ids: Sequence[int] = (),
    ) -> None:
        if not hasattr(backbone.model, "generate"):
            raise InputError(
                f"{type(backbone.model).__name__} does not support generation.",
                "Use another backbone.",
                key="backbone.asset",
            )
        self._backbone = backbone
        self._engine = InProcessEngine() if backbone.is_partitioned else engine
        self._prompt = prompt
        self._num_more = num_more
        self._end_ids = list(end_ids)
        self._start_id = decoder_start_id(backbone.model) if backbone.family == "seq2seq" else None

    def __call__(
        self,
        texts: Sequence[TextStart],
        max_new_tokens: int,
        on_progress: OnProgress,
        *,
        decoding: Sampling | Beams = GREEDY,
        stop: Sequence[str] = (),
        streamer: Any = None,
    ) -> list[Continuation]:
        """Returns the continuation of each text, without the token at its end.

        Args:
            texts: [n] texts.
            max_new_tokens: T, the maximum number of new tokens.
            on_progress: Called after each batch.
            decoding: How tokens are chosen.
            stop: Texts that end a continuation, of which they are a part. Not for several beams.
            streamer: Gets every token as soon as it is chosen: a streamer of transformers, for one text and one beam.
        """
        written_nT = torch.zeros(len(texts), max_new_tokens, dtype=torch.long)
        is_cut_n = torch.zeros(len(texts), dtype=torch.long)
        num_done = 0
        with self._backbone.evaluation(), _plain_generation(self._backbone.model):
            for rows, counts in shard_batches(self._batches(texts, max_new_tokens, decoding), self._engine):
                if counts:
                    batch = self._continued([texts[row] for row in rows], max_new_tokens, decoding, stop, streamer)
                    for row, item in zip(rows, batch, strict=True):
                        written_nT[row, : len(item.ids)] = torch.tensor(item.ids, dtype=torch.long) + 1
                        is_cut_n[row] = int(item.is_cut)
                num_done += len(rows) * self._engine.world_size
                on_progress(min(num_done, len(texts)), len(texts))
        written_nT, is_cut_n = self._engine.all_reduce_sum(written_nT), self._engine.all_reduce_sum(is_cut_n)
        return [
            Continuation(tuple(token - 1 for token in row if token), bool(is_cut))
            for row, is_cut in zip(written_nT.tolist(), is_cut_n.tolist(), strict=True)
        ]

    def _batches(self, texts: Sequence[TextStart], max_new_tokens: int, decoding: Sampling | Beams) -> list[list[int]]:
        """Returns the rows of each batch: of similar length, or of one length where padding would change a text."""
        num_more = self._num_more + max_new_tokens
        lengths = [len(item.encoded.ids) + num_more for item in texts]
        batches = batches_by_length(lengths, self._backbone.eval_batch_tokens // _num_beams(decoding))
        padding = self._backbone.traits.padding
        if padding == "left" or (self._backbone.family == "seq2seq" and padding == "right"):
            return batches
        return [
            [row for row in batch if lengths[row] == length]
            for batch in batches
            for length in dict.fromkeys(lengths[row] for row in batch)
        ]

    def _continued(
        self,
        texts: Sequence[TextStart],
        max_new_tokens: int,
        decoding: Sampling | Beams,
        stop: Sequence[str],
        streamer: Any,
    ) -> Iterator[Continuation]:
        backbone, num_beams = self._backbone, _num_beams(decoding)
        encoded = [item.encoded for item in texts]
        batch = backbone.batch(encoded)
        prompt = SoftInput() if self._prompt is None else self._prompt(encoded)
        read = self._seq2seq_inputs if backbone.family == "seq2seq" else self._causal_inputs
        arguments = read(batch, prompt, num_beams)
        # `generate` returns the ids that it was given before new ones: the start of the decoder, or the text
        given = 1 if backbone.family == "seq2seq" else 0
        start = given or (arguments["input_ids"].shape[1] if "input_ids" in arguments else 0)
        stops = _StopTexts(backbone.tokenizer, stop, start)
        randoms = [item.randoms for item in texts if item.randoms is not None]
        samplers = [_Sampler(decoding, torch.stack(randoms), start)] if isinstance(decoding, Sampling) else []
        with self._passes(prompt.repeated(num_beams), len(texts) * num_beams):
            written_BT = backbone.model.generate(
                **arguments,
                generation_config=self._settings(decoding, max_new_tokens),
                logits_processor=samplers,
                stopping_criteria=[stops] if stop else [],
                streamer=streamer,
            )[:, start:].tolist()
        for row, tokens in enumerate(written_BT):
            end = next((index for index, token in enumerate(tokens) if token in self._end_ids), None)
            if end is None:
                end = stops.ends.get(row)
            yield Continuation(tuple(tokens[:end]), end is None)

    def _settings(self, decoding: Sampling | Beams, max_new_tokens: int) -> GenerationConfig:
        """Returns the settings of `generate`. A logits processor samples."""
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "num_beams": _num_beams(decoding),
            "eos_token_id": self._end_ids or None,
            "pad_token_id": self._backbone.pad_id,
        }
        if self._start_id is not None:
            settings["decoder_start_token_id"] = self._start_id
        if isinstance(decoding, Beams) and decoding.count > 1:
            settings["length_penalty"] = decoding.length_penalty
        return GenerationConfig(**settings)

    def _causal_inputs(self, batch: EncodedBatch, prompt: SoftInput, num_beams: int) -> dict[str, Any]:
        """Returns the arguments of `generate` for a causal model."""
        backbone = self._backbone
        num_cached = prompt.num_positions if prompt.lengths is None else 0
        mask = widen(batch.attention_mask, num_cached + prompt.num_before)
        arguments: dict[str, Any] = {"attention_mask": mask, **self._text(batch, prompt)}
        if backbone.traits.positions != "none":
            first = backbone.model.config.pad_token_id + 1 if backbone.traits.positions == "after_pad" else 0
            num_read = prompt.num_positions - num_cached
            arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0) + first + num_read
        if prompt.layers is not None and prompt.lengths is None:
            dtype = backbone.model.get_input_embeddings().weight.dtype
            arguments["past_key_values"] = prompt.repeated(num_beams).cache(len(mask) * num_beams, dtype)
        return arguments

    def _seq2seq_inputs(self, batch: EncodedBatch, prompt: SoftInput, num_beams: int) -> dict[str, Any]:
        """Returns the arguments of `generate` for a seq2seq model: a deep prompt is what its decoder has read."""
        assert isinstance(self._backbone, Seq2SeqBackbone)
        encoded = self._backbone.encode(batch, prompt)
        size, dtype = len(encoded.states) * num_beams, encoded.states.dtype
        cache = self._backbone.decoder_cache(size, prompt.repeated(num_beams), dtype)
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=encoded.states),
            "attention_mask": encoded.mask,
            **{name: value for name, value in cache.items() if name == "past_key_values"},
        }

    def _passes(self, prompt: SoftInput, size: int) -> AbstractContextManager[None]:
        """Adds what of the prompt is not in a cache to passes inside the block, which read `size` texts."""
        if isinstance(self._backbone, CausalBackbone):
            return self._backbone.layers_prefixed(prompt, size)
        assert isinstance(self._backbone, Seq2SeqBackbone)
        dtype = self._backbone.model.get_input_embeddings().weight.dtype
        return self._backbone.cross_prefixed(prompt, size, dtype)

    def _text(self, batch: EncodedBatch, prompt: SoftInput) -> dict[str, Tensor]:
        """Returns token ids, or embeddings if the prompt has vectors in the input."""
        if prompt.before is None and prompt.inside is None:
            return {"input_ids": batch.input_ids}
        table = self._backbone.model.get_input_embeddings()
        return {"inputs_embeds": prompt.embedded(table(batch.input_ids), batch.soft_positions)}


def _num_beams(decoding: Sampling | Beams) -> int:
    return decoding.count if isinstance(decoding, Beams) else 1


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
