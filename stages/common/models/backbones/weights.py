"""Reads the weights of a language model, and refuses files that lack some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from stages.common.errors import AssetError
from stages.common.models.batching import attention_implementation
from stages.common.models.meta_models import auto_class_for, language_model_class
from stages.common.models.model_files import family_of


def read_model(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """Reads a language model with all its weights.

    Args:
        folder: The folder of the model.
        dtype: Precision of the weights.
        trust_remote_code: Run Python code in the folder.

    Raises:
        AssetError: weights are missing, damaged or of another shape. transformers would draw them at random.
    """
    family = family_of(folder)
    model_class, settings = auto_class_for(family), {}
    if trust_remote_code:
        settings["config"] = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model_class = language_model_class(folder, settings["config"], family, trust_remote_code=True)
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention_implementation(),
            use_safetensors=True,
            trust_remote_code=False,  # the class above has the code
            output_loading_info=True,
            **settings,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(f"the weights in {folder} cannot be read ({reason}).", "Download the model again.") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise AssetError(
            f"the weights in {folder} have no {missing[0]}, and {len(missing) - 1} more of {type(model).__name__} are "
            "missing.",
            "Use a checkpoint with a trained language-model head, or download the model again.",
        )
    return model
