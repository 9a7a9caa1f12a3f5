"""Twins: small random copies of an architecture, on which a property is measured instead of looked up by name.

A twin has the class and the settings of a model, but few and narrow layers: a forward pass takes milliseconds. Sizes
are recognized by the names that transformers gives them in configs. Where an architecture rejects one shape, such as
grouped queries, or needs more layers to have one of each kind, the next shape is tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from stages.common.patterns.config import Family

VOCABULARY = 120
MAX_POSITIONS = 160
MAX_WEIGHTS = 6_000_000
"""A copy with more weights has a size that is not recognized."""
SIZES = (
    (r"(num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers)", 2),
    (r"(\w*hidden_size|d_model|n_embd|emb_dim|dim|embed_dim|word_embed_proj_dim|q_lora_rank|o_lora_rank)", 64),
    (r"(num_attention_heads|n_heads?|num_heads|\w*coder_attention_heads|linear_num_\w+_heads|index_n_heads)", 4),
    (r"((\w+_)?num_key_value_heads|num_kv_heads)", 2),
    (r"(\w*head_dim|d_kv|d_head|kv_channels|dim_head|attention_head_size|rotary_dim)", 16),
    (r"(\w*intermediate_size\w*|\w*ffn_dim|n_inner|d_ff|dff|hidden_dim|d_inner|dim_ff|ffn_hidden_size)", 96),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok\w*|moe_top_?k|moe_k|top_k_experts|n_group|topk_group|num_expert_group)", 1),
    (r"(embedding_size|embedding_dim|bottleneck_size|intra_bottleneck_size|\w*embed_dim|kv_lora_rank)", 32),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length)", MAX_POSITIONS),
    (r"(attention_window|\w*chunk_size|state_size|mamba_d_state|hidden_size_per_layer_input)", 16),
)  # fmt: skip
"""Regular expression for the name of a size -> its largest value in a twin."""
IDENTITY = ("model_type", "dtype", "_name_or_path")
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4, "head_dim": 16},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 4, "num_key_value_heads": 4},
    {"layer_types": ["linear_attention", "full_attention"]},
    {"layer_types": ["full_attention", "full_attention"]},
    {"attn_layer_indices": [1]},
    {"attention_types": [[["global", "local"], 1]]},
    {"num_kv_shared_layers": 0},
    {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 2},
    {"embedding_size": 64},
    {"true_hidden_size": 64, "intra_bottleneck_size": 64, "embedding_size": 64},
    {"n_embd": 64, "n_head": 4, "rotary_dim": 8},
    {"num_hidden_layers": 8},
)
"""Settings that are tried one after another."""


def model_class_of(config: PreTrainedConfig, family: Family) -> Any:
    """Returns the class of transformers that has the LM head of a family; None if there is none for this config."""
    auto = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}[family]
    found = auto._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found


def build_twin(
    model_class: Any,
    config: PreTrainedConfig,
    family: Family,
    *,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Returns a twin of a model: in float32, in evaluation mode, with random weights.

    Args:
        model_class: Its class.
        config: Its config.
        family: Its family.
        seed: Seed of the weights.
        vocabulary: Size of its vocabulary.
        settings: More settings of its config.

    Raises:
        ValueError: no shape can be built, with the reason of the first one.
    """
    first: Exception | None = None
    for shape in SHAPES:
        try:
            small = _small_config(config, {**shape, **(settings or {})}, vocabulary)
            twin = _build(model_class, small, seed)
            text = torch.arange(7, 16)[None]
            with torch.no_grad():
                twin(input_ids=text, **({"decoder_input_ids": text} if family == "seq2seq" else {}))
        except Exception as error:  # Configs and models check their sizes in many ways.
            first = first or error
        else:
            return twin
    raise ValueError(f"{type(first).__name__}: {str(first).strip().partition(chr(10))[0]}")


def _build(model_class: Any, config: PreTrainedConfig, seed: int) -> Any:
    with torch.device("meta"):
        num_weights = sum(weight.numel() for weight in model_class(config).parameters())
    if num_weights > MAX_WEIGHTS:
        raise ValueError(f"a small copy has {num_weights:,} weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = model_class(config).float().eval()
        for weight in twin.parameters():  # larger than at the start of a training, so that every path has an effect
            weight.data += torch.randn_like(weight) * (0.15 if weight.ndim > 1 else 0.05)
    return twin


def _small_config(config: PreTrainedConfig, shape: Mapping[str, Any], vocabulary: int) -> PreTrainedConfig:
    default = type(config)()
    settings = _settings(config, default, vocabulary)
    for name in getattr(type(config), "sub_configs", None) or {}:
        sub = getattr(default, name, None)
        if isinstance(sub, PreTrainedConfig):
            part = {**sub.to_dict(), **_settings(getattr(config, name), sub, vocabulary)}
            part.pop("layer_types", None)
            settings[name] = part
    known = default.to_dict()
    return type(config)(**{**settings, **{name: value for name, value in shape.items() if name in known}})


def _settings(config: PreTrainedConfig, default: PreTrainedConfig, vocabulary: int) -> dict[str, Any]:
    """Returns small sizes, and the switches of `config`: its settings that are no sizes, lists or mappings."""
    settings: dict[str, Any] = {}
    given = config.to_dict()
    for name, value in default.to_dict().items():
        small = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
        if name.endswith("vocab_size") or ("vocab_size" in name and type(value) is int):
            settings[name] = vocabulary
        elif name.endswith("token_id"):
            if type(value) is int and value >= vocabulary:
                settings[name] = 1 if name.startswith("pad") else 2
        elif small is not None and type(value) is int:
            settings[name] = min(value, small)
        elif type(given.get(name)) is type(value) and isinstance(value, bool | str | float) and name not in IDENTITY:
            settings[name] = given[name]
    if default.to_dict().get("pad_token_id", 0) is None:
        settings["pad_token_id"] = 1
    return settings
