"""Generates tokens for a batch of inputs with transformers' `generate`, under a soft prompt.

Vectors before or inside the text are input embeddings. Keys and values of a deep prompt are a cache that `generate`
continues. The attention mask and the positions are those of a forward pass (`Backbone.hidden_states`): a prompt is
before the padding, which no token sees and no position counts.

Letters in names of tensors: B batch, L length, N vectors before the text, P positions of a deep prompt, T new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers import GenerationConfig as TransformersConfig

from stages.common.models.backbones.base import Backbone, widen
from stages.common.models.backbones.seq2seq import decoder_start_id
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import EncodedBatch, batches_by_length
from stages.common.patterns.encoding import Encoded
from stages.generation.config import DecodingConfig


def batches_to_generate(backbone: Backbone, lengths: Sequence[int], num_more: int, width: int) -> list[list[int]]:
    """Groups rows into batches that can be generated together.

    Args:
        backbone: The model. Where padding on the left changes a text, a batch has inputs of one length.
        lengths: [n] tokens of the inputs.
        num_more: Positions in addition to the input: of the prompt and of the new tokens.
        width: Texts that are continued at the same time for each input.
    """
    max_tokens = backbone.eval_batch_tokens // width
    pads = backbone.traits.padding == "left" or (backbone.family == "seq2seq" and backbone.traits.padding == "right")
    groups = [range(len(lengths))] if pads else [
        [row for row, item in enumerate(lengths) if item == length] for length in sorted(set(lengths), reverse=True)
    ]  # fmt: skip
    return [
        [rows[number] for number in batch]
        for rows in groups
        for batch in batches_by_length([lengths[row] + num_more for row in rows], max_tokens)
    ]


def generate_ids(
    backbone: Backbone,
    encoded: Sequence[Encoded],
    prompt: SoftInput,
    decoding: DecodingConfig,
    *,
    max_new_tokens: int,
    seed: int = 0,
    streamer: Any = None,
) -> list[list[int]]:
    """Returns the new tokens of each text, without the one that ends it. The caller switches gradients off.

    Args:
        backbone: A causal or seq2seq model.
        encoded: [B] inputs of a batch of `batches_to_generate`.
        prompt: The soft prompt.
        decoding: How tokens are chosen.
        max_new_tokens: Maximum number of new tokens.
        seed: Seed of `strategy: sample`.
        streamer: Gets every token as soon as it is chosen; a streamer of transformers, for one text.
    """
    batch = backbone.batch(encoded)
    is_seq2seq = backbone.family == "seq2seq"
    arguments = _seq2seq_inputs(backbone, batch, prompt, decoding.width) if is_seq2seq else _causal_inputs(
        backbone, batch, prompt, decoding.width
    )  # fmt: skip
    devices = [backbone.device] if backbone.is_on_gpu else []
    with _own_defaults(backbone.model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        config = _transformers_config(backbone, decoding, max_new_tokens)
        output_BT: Tensor = backbone.model.generate(**arguments, generation_config=config, streamer=streamer)
    num_given = 1 if is_seq2seq else arguments["input_ids"].shape[1] if "input_ids" in arguments else 0
    return [_until_end(row, backbone.tokenizer.eos_token_id) for row in output_BT[:, num_given:].tolist()]


def _causal_inputs(backbone: Backbone, batch: EncodedBatch, prompt: SoftInput, width: int) -> dict[str, Any]:
    """Returns the arguments of `generate` for a causal model."""
    mask = widen(batch.attention_mask, prompt.num_positions + prompt.num_before)
    arguments: dict[str, Any] = {"attention_mask": mask, **_text(backbone, batch, prompt)}
    if backbone.traits.positions != "none":
        first = backbone.model.config.pad_token_id + 1 if backbone.traits.positions == "after_pad" else 0
        arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0) + first
    if prompt.layers is not None:
        dtype = backbone.model.get_input_embeddings().weight.dtype
        arguments["past_key_values"] = prompt.cache(len(mask) * width, dtype)
    return arguments


def _seq2seq_inputs(backbone: Backbone, batch: EncodedBatch, prompt: SoftInput, width: int) -> dict[str, Any]:
    """Returns the arguments of `generate` for a seq2seq model: a deep prompt is what its decoder has read already."""
    arguments: dict[str, Any] = {
        "attention_mask": widen(batch.attention_mask, prompt.num_before),
        **_text(backbone, batch, prompt),
    }
    if prompt.layers is not None:
        size, dtype = len(batch.input_ids) * width, backbone.model.get_input_embeddings().weight.dtype
        arguments["past_key_values"] = EncoderDecoderCache(prompt.cache(size, dtype), DynamicCache())
    return arguments


def _text(backbone: Backbone, batch: EncodedBatch, prompt: SoftInput) -> dict[str, Tensor]:
    """Returns token ids, or embeddings if the prompt has vectors in the input."""
    if prompt.before is None and prompt.inside is None:
        return {"input_ids": batch.input_ids}
    table = backbone.model.get_input_embeddings()
    return {"inputs_embeds": prompt.embedded(table(batch.input_ids), batch.soft_positions)}


def _transformers_config(backbone: Backbone, decoding: DecodingConfig, max_new_tokens: int) -> TransformersConfig:
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_beams": decoding.width,
        "eos_token_id": backbone.tokenizer.eos_token_id,
        "pad_token_id": backbone.pad_id,
    }
    if backbone.family == "seq2seq":
        settings["decoder_start_token_id"] = decoder_start_id(backbone.model)
    if decoding.strategy == "beam" and decoding.length_penalty is not None:
        settings["length_penalty"] = decoding.length_penalty
    if decoding.strategy == "sample":
        settings |= {"do_sample": True, "top_k": 0, "temperature": decoding.temperature or 1.0}
        settings["top_p"] = decoding.top_p or 1.0
    return TransformersConfig(**settings)


@contextmanager
def _own_defaults(model: Any) -> Iterator[None]:
    """Hides the generation config of a model inside the block, such as a temperature or a forced first token. The
    prompt is trained without them.
    """
    previous = model.generation_config
    model.generation_config = TransformersConfig()
    try:
        yield
    finally:
        model.generation_config = previous


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
