"""Translates a GGUF file into a folder of float32 safetensors, with its tokenizer.

transformers refuses to save a model that it loaded from GGUF. So the weights are copied into a new model whose config
has no quantization settings.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer


def translate_gguf(path: Path, target: Path) -> None:
    """Dequantises a GGUF file to float32 safetensors. transformers refuses to save what it loaded from GGUF, so the
    weights move into a fresh model without the quantisation's mark."""

    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    config = type(loaded.config)(
        **{
            k: v
            for k, v in loaded.config.to_dict().items()
            if k not in ("quantization_config", "architectures", "dtype")
        }
    )
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as temporary:
        folder = Path(temporary) / "model"
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.move(folder, target)
