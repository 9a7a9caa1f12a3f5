"""Tests that models of llama-like families are the same after they were written as GGUF, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from stages.common.errors import AssetError
from stages.common.models.gguf import translate_gguf
from tests.support.small_models import llama_tokenizer

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 160,
}
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0}}
MODELS: dict[str, Callable[[dict[str, int]], Any]] = {
    "llama": lambda ids: LlamaForCausalLM(LlamaConfig(**SHAPE, **ROTARY, **ids)),
    "qwen2": lambda ids: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ROTARY, **ids, tie_word_embeddings=True)),
    "qwen3": lambda ids: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **ROTARY, **ids, head_dim=128)),
    "phi3": lambda ids: Phi3ForCausalLM(Phi3Config(**SHAPE, **ROTARY, **ids)),
    "gemma2": lambda ids: Gemma2ForCausalLM(Gemma2Config(**SHAPE, **ROTARY, **ids, head_dim=16)),
    "gemma3": lambda ids: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **ids, head_dim=16)),
    "stablelm": lambda ids: StableLmForCausalLM(StableLmConfig(**SHAPE, **ids)),
    "starcoder2": lambda ids: Starcoder2ForCausalLM(Starcoder2Config(**SHAPE, **ROTARY, **ids)),
}
"""Name of an architecture in GGUF -> a small model with settings that are no defaults."""


def build(architecture: str) -> Any:
    tokenizer = llama_tokenizer()
    torch.manual_seed(1)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 1}
    model = MODELS[architecture](ids).eval()
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * (0.1 if weight.ndim > 1 else 0.05)
    return model


def write(
    path: Path, architecture: str, model: Any, extra: Callable[[gguf.GGUFWriter], None] = lambda writer: None
) -> None:
    """Writes a model in float32, as llama.cpp's converter does."""
    config, tokenizer, writer = model.config, llama_tokenizer(), gguf.GGUFWriter(str(path), architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    extra(writer)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    number = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and "q_proj" in name:
            values = interleaved(values, config.num_attention_heads)
        elif architecture == "llama" and "k_proj" in name:
            values = interleaved(values, config.num_key_value_heads)
        elif architecture.startswith("gemma") and "norm" in name:
            values = values + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """llama.cpp rotates neighbors, transformers the two halves of a head."""
    halves = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize("architecture", [name for name in MODELS if name != "starcoder2"])
def test_translated_model_computes_the_same(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    write(tmp_path / "model.gguf", architecture, model)
    translate_gguf(tmp_path / "model.gguf", tmp_path / "out")
    translated = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        torch.testing.assert_close(translated(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    if architecture.startswith("gemma"):
        return  # its tokenizer is always of another kind than this one
    text = "The film was great"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    plain = llama_tokenizer()
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == plain(text, add_special_tokens=False)["input_ids"]


def test_rotary_base_that_transformers_ignores_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", "starcoder2", build("starcoder2"))
    with pytest.raises(AssetError, match=r"does not read from a GGUF file \(rope.freq_base: 50000\)"):
        translate_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scaled_rotary_frequencies_are_refused(tmp_path: Path) -> None:
    """As in Llama 3.1, whose factors are a tensor, and in Gemma 3 from 4B on."""
    extras: dict[str, Callable[[gguf.GGUFWriter], None]] = {
        "tensor": lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32)),
        "type": lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR),
    }
    for name, extra in extras.items():
        write(tmp_path / f"{name}.gguf", "llama", build("llama"), extra)
        with pytest.raises(AssetError, match="scaled rotary frequencies"):
            translate_gguf(tmp_path / f"{name}.gguf", tmp_path / "out")


def test_architecture_that_transformers_does_not_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", "llama", build("llama"))
    names = [len(name).to_bytes(8, "little") + name for name in (b"llama", b"other")]
    content = (tmp_path / "model.gguf").read_bytes().replace(*names, 1)
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(AssetError, match="architecture other is not supported"):
        translate_gguf(tmp_path / "model.gguf", tmp_path / "out")
