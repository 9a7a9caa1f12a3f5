"""Checks on a small copy of a model that prefixes without a cache are right.

Cross-attention to a prefix and a text equals cross-attention to more states of the encoder, of which the prefix has the
keys and values. In the encoder, a prefix with the keys and values of the text itself changes nothing if no position has
a bias: each weight of the softmax is split in two. Random prefixes must change the logits, whatever the padding is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutput

from stages.common.errors import InputError
from stages.common.models.backbones.base import widen
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.seq2seq import EncoderOutput, Seq2SeqBackbone, decoder_start_id
from stages.common.models.backbones.soft_input import KeysAndValues, PrefixPlace, SoftInput
from stages.common.models.meta_models import language_model_class
from stages.common.models.model_files import architecture_of
from stages.common.models.traits import ModelTraits
from stages.common.models.traits_cache import folder_traits
from stages.common.models.twins import VOCABULARY, build_twin
from stages.common.patterns.encoding import Encoded

TOLERANCE = 1e-4
"""Largest difference of logits in float32, relative to the largest one."""
NUM_POSITIONS = 3
RELATIVE_BIAS = "relative_attention_bias"
"""Part of the name of the weights that T5 and its relatives add by the distance of two tokens."""


def check_prefixes(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Checks the encoder and the cross-attention of the seq2seq model in `folder`.

    Raises:
        InputError: with the technical reason.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model_class = language_model_class(folder, config, "seq2seq", trust_remote_code=trust_remote_code)
    try:
        twin = build_twin(model_class, config, "seq2seq")
        problem = find_problem(twin, folder_traits(folder, trust_remote_code=trust_remote_code))
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
    if problem:
        raise InputError(
            f"{architecture_of(folder)} takes no prefixes in its encoder and in cross-attention: {problem}.",
            "Remove prefix_at, or use another backbone, such as T5 or BART.",
        )


def check_layers(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Checks that the causal model in `folder` reads prefixes without a cache, which layers of other lengths need.

    Raises:
        InputError: with the technical reason.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model_class = language_model_class(folder, config, "causal", trust_remote_code=trust_remote_code)
    try:
        twin = build_twin(model_class, config, "causal")
        backbone = CausalBackbone(twin, _Tokenizer(), folder_traits(folder, trust_remote_code=trust_remote_code))
        generator = torch.Generator().manual_seed(3)
        ids = [torch.randint(10, VOCABULARY, (length,), generator=generator).tolist() for length in (5, 12)]
        texts = [Encoded(tuple(item), (0,) * len(item), len(item) - 1) for item in ids]
        with torch.no_grad():
            shape = _stacked(backbone.token_keys_and_values(torch.tensor([[7, 8, 9]]))).shape
            layers = torch.randn(shape, generator=generator)
            batch = backbone.batch(texts)
            cached = backbone.vocabulary_logits(batch, SoftInput(layers=layers))
            lengths = (shape[-2],) * shape[0]
            separate = backbone.vocabulary_logits(batch, SoftInput(layers=layers, lengths=lengths))
        problem = "they differ from those in a cache" if _difference(separate, cached) > TOLERANCE else ""
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
    if problem:
        raise InputError(
            f"{architecture_of(folder)} takes no prefixes of some layers: {problem}.",
            "Remove layers and layer_lengths, or use another backbone, such as Llama or GPT-2.",
        )


def find_problem(model: Any, traits: ModelTraits) -> str:
    """Returns why prefixes would be wrong on a small model; empty if they are right. Changes its relative biases."""
    if getattr(model.generation_config, "decoder_start_token_id", None) is None:
        model.generation_config.decoder_start_token_id = 3
    backbone = Seq2SeqBackbone(model, _Tokenizer(), traits)
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(10, VOCABULARY, (length,), generator=generator).tolist() for length in (5, 12)]
    texts = [Encoded(tuple(item), (0,) * len(item), 1) for item in ids]
    with torch.no_grad():
        found = {place: backbone.place_keys_and_values(place, torch.tensor([ids[0]])) for place in PLACES}
        sizes = {"encoder": model.config.num_hidden_layers, "cross": _num_decoder_layers(model.config)}
        for place, pairs in found.items():
            if len(pairs) != sizes[place]:
                return f"{len(pairs)} of its {sizes[place]} layers look up their attention in the registry ({place})"
        for place, pairs in found.items():
            shape = (len(pairs), 2, pairs[0].keys.shape[1], NUM_POSITIONS, pairs[0].keys.shape[3])
            prompt = _soft_input(place, torch.randn(shape, generator=generator))
            alone = torch.cat([_logits(backbone, [text], prompt) for text in texts])
            if _difference(_logits(backbone, texts, prompt), alone) > TOLERANCE:
                return f"a prefix changes with the padding of its batch ({place})"
            if _difference(_logits(backbone, texts, None), alone) < TOLERANCE:
                return f"a prefix has no effect ({place})"
        if _cross_differs(backbone, texts[:1], generator):
            return "a prefix does not act like more states of the encoder (cross)"
        for name, weight in model.named_parameters():
            if RELATIVE_BIAS in name:
                weight.zero_()
        own = _soft_input("encoder", _stacked(backbone.place_keys_and_values("encoder", torch.tensor([ids[0]]))))
        if _difference(_logits(backbone, texts[:1], own), _logits(backbone, texts[:1], None)) > TOLERANCE:
            return "a prefix does not act like the text whose keys and values it has (encoder)"
    return ""


PLACES: tuple[PrefixPlace, ...] = ("encoder", "cross")


class _Tokenizer:
    """What a backbone needs of a tokenizer."""

    eos_token_id = 2
    pad_token_id = 1
    unk_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> int:
        del token
        return 6


def _num_decoder_layers(config: Any) -> int:
    names = ("decoder_layers", "num_decoder_layers")
    return int(next((value for name in names if (value := getattr(config, name, None))), config.num_hidden_layers))


def _soft_input(place: PrefixPlace, layers: Tensor) -> SoftInput:
    return SoftInput(encoder=layers) if place == "encoder" else SoftInput(cross=layers)


def _stacked(pairs: list[KeysAndValues]) -> Tensor:
    return torch.stack([torch.stack([pair.keys[0], pair.values[0]]) for pair in pairs])


def _logits(backbone: Seq2SeqBackbone, texts: list[Encoded], prompt: SoftInput | None) -> Tensor:
    return backbone.vocabulary_logits(backbone.batch(texts), prompt)


def _cross_differs(backbone: Seq2SeqBackbone, texts: list[Encoded], generator: torch.Generator) -> bool:
    """Returns True if a prefix of cross-attention differs from more states that the encoder could have returned."""
    encoded = backbone.encode(backbone.batch(texts), None)
    more = torch.randn(1, NUM_POSITIONS, encoded.states.shape[-1], generator=generator)
    start = torch.tensor([[decoder_start_id(backbone.model)]])
    longer = EncoderOutput(torch.cat([more, encoded.states], dim=1), widen(encoded.mask, NUM_POSITIONS))
    expected = backbone.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=longer.states),
        attention_mask=longer.mask,
        decoder_input_ids=start,
    ).logits
    prompt = SoftInput(cross=_stacked(backbone.cross_keys_and_values(more)))
    return _difference(backbone.decode(encoded, start, prompt), expected) > TOLERANCE


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
