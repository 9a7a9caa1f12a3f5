"""Translates a GGUF file into a folder of float32 safetensors, with its tokenizer.

transformers refuses to save a model that it loaded from GGUF. So the weights are copied into a new model whose config
has no quantization settings. transformers ignores some settings of a file; a file is refused if one of them differs
from the config that it would get.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.common.errors import AssetError
from stages.common.models.model_writer import save_model

SCALED_ROTARY = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""Tensors of scaled rotary frequencies, as in Llama 3.1 and Phi-3 with long contexts."""


def translate_gguf(path: Path, target: Path) -> None:
    """Writes a GGUF file as a new folder `target` of float32 safetensors with tokenizer.

    Raises:
        AssetError: transformers does not read this architecture or one of its settings, or the file is damaged.
    """
    try:
        loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(
            f"{path} cannot be read ({reason}).",
            "Download it again, or use a model in safetensors. transformers reads GGUF files of Llama, Mistral, Qwen 2 "
            "and 3, Phi-3, Gemma 2 and 3, and some others.",
        ) from error
    _check_settings(path, loaded.config)
    excluded = ("quantization_config", "architectures", "dtype")
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in excluded}
    model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict())
    save_model(model, tokenizer, target)


def _check_settings(path: Path, config: Any) -> None:
    """Checks that the config has the settings of the file that change what the model computes.

    Raises:
        AssetError: it has another value.
    """
    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    rotary = getattr(config, "rope_parameters", None) or {}
    rotary = rotary.get("full_attention", rotary)  # Gemma 3 has other ones for the window of its local layers
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads
    expected = {
        "rope.freq_base": rotary.get("rope_theta"),
        "attention.key_length": head_dim,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "logit_scale": getattr(config, "logit_scale", None),
    }
    for name, value in expected.items():
        field = reader.fields.get(f"{architecture}.{name}")
        if field is not None and not math.isclose(field.contents(), value or 0, rel_tol=1e-4):
            raise _ignored(path, f"{name}: {field.contents():g}")
    scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
    is_scaled = any(tensor.name.partition(".")[0] in SCALED_ROTARY for tensor in reader.tensors)
    if (is_scaled or (scaling and scaling.contents() != "none")) and rotary.get("rope_type", "default") == "default":
        raise _ignored(path, "scaled rotary frequencies")


def _ignored(path: Path, setting: str) -> AssetError:
    return AssetError(
        f"{path} has a setting that transformers does not read from a GGUF file ({setting}), so its scores would be "
        "wrong.",
        "Use the model in safetensors.",
    )
