"""Soft prompts on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, kilobytes in all.

`peft.PeftModel.from_pretrained(backbone, folder)` loads them. PEFT has no task type for masked language models: there
the prompt loads, but a plain PeftModel does not apply it; this project does.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stages.errors import InputError
from stages.models.adapters import tidy
from stages.models.backbones import Backbone
from stages.prompts.table import SoftPrompt

_TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": None}


def save_prompt(prompt: SoftPrompt, backbone: Backbone, folder: Path) -> None:
    """Writes a prompt to `folder`, which is made."""
    from peft import PromptTuningConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    PromptTuningConfig(
        task_type=_TASK_TYPES[backbone.family],
        num_virtual_tokens=prompt.num_vectors,
        token_dim=prompt.vectors.shape[1],
        num_transformer_submodules=1,
        num_layers=backbone.model.config.num_hidden_layers,
        num_attention_heads=backbone.model.config.num_attention_heads,
        inference_mode=True,
    ).save_pretrained(str(folder))
    tidy(folder)
    save_file(
        {"prompt_embeddings": prompt.vectors.detach().cpu().contiguous()},
        folder / "adapter_model.safetensors",
    )


def load_prompt(folder: Path, backbone: Backbone) -> SoftPrompt:
    """Reads a prompt for `backbone`.

    Raises:
        InputError: the prompt was made for a backbone of another width.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    vectors: torch.Tensor = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    if vectors.shape[1] != backbone.width:
        raise InputError(
            f"the prompt in {folder} has vectors of width {config['token_dim']}, the backbone takes {backbone.width}.",
            "Use it with the backbone that it was trained on, or pretrain a prompt for this one.",
        )
    return SoftPrompt(vectors).to(backbone.device)
