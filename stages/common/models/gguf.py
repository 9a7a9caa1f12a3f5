"""Translates a GGUF file into a folder of float32 safetensors, with its tokenizer.

transformers refuses to save a model that it loaded from GGUF. So the weights are copied into a new model whose config
has no quantization settings.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.common.models.model_writer import save_model


def translate_gguf(path: Path, target: Path) -> None:
    """Writes a GGUF file as a new folder `target` of float32 safetensors with tokenizer."""
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    excluded = ("quantization_config", "architectures", "dtype")
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in excluded}
    model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    save_model(model, tokenizer, target)
