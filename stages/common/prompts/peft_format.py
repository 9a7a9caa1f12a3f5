"""Soft prompts on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, a few kilobytes.

`peft.PeftModel.from_pretrained(backbone, folder)` loads them. PEFT has no task type for masked language models and
cannot put vectors inside a pattern: such a prompt loads, but a plain PeftModel does not apply it, or applies it before
the text. This project follows `prompt.json`. LoRA weights that were trained with the prompt are in `lora/`. Files are
the same on every machine: no local paths, no order that depends on a hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptLearningConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.prompts.config import PromptTuningMethod
from stages.common.prompts.deep_prompts import KVLayout
from stages.common.prompts.prompt_modules import PromptEmbedding
from stages.common.prompts.soft_prompt import Prompt, PromptPosition


def tidy(folder: Path) -> None:
    """Rewrites what PEFT's `save_pretrained` left in `folder`: names in order, no local path, no empty card."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


_TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": None}
_WEIGHTS = "adapter_model.safetensors"


def save_prompt(prompt: Prompt, backbone: Backbone, folder: Path, method: PromptTuningMethod = "prompt_tuning") -> None:
    """Writes a prompt to `folder`, which is made; what reparameterised it is left out."""

    folder.mkdir(parents=True, exist_ok=True)
    _config(prompt, backbone, method).save_pretrained(str(folder))
    tidy(folder)
    vectors = prompt.vectors.detach().cpu()
    if prompt.layers is not None and backbone.family == "seq2seq":
        vectors = _for_two_caches(vectors, prompt.layers)
    about = {"place": prompt.position, "backbone": backbone.digest}
    (folder / "prompt.json").write_text(json.dumps(about, sort_keys=True) + "\n")
    save_file({"prompt_embeddings": vectors.contiguous()}, folder / _WEIGHTS)


def load_prompt(folder: Path, backbone: Backbone) -> Prompt:
    """Reads a prompt for `backbone`; one that PEFT wrote, too.

    Raises:
        InputError: there is none, or it was made for another backbone, or one of another width or depth.
    """

    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        vectors: Tensor = load_file(folder / _WEIGHTS)["prompt_embeddings"]
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{folder} holds no soft prompt ({error}).", "Name the folder `prompt` of a step.") from error
    is_deep = config["peft_type"] == "PREFIX_TUNING"
    path = folder / "prompt.json"
    about: dict[str, Any] = {"place": "layers" if is_deep else "before"}
    about |= json.loads(path.read_text()) if path.exists() else {}
    place: PromptPosition = about["place"]
    remedy = "Use it with the backbone that it was trained on, or train a prompt for this one."
    if about.get("backbone", backbone.digest) != backbone.digest and vectors.shape[1] == backbone.embedding_size:
        raise InputError(f"the prompt in {folder} was made for another backbone of the same width.", remedy)
    if not is_deep:
        if vectors.shape[1] != backbone.embedding_size:
            raise InputError(
                f"the prompt in {folder} has vectors of width {vectors.shape[1]}, the backbone takes {backbone.embedding_size}.",
                remedy,
            )
        return Prompt(PromptEmbedding(vectors), place).to(backbone.device)
    layers = KVLayout.of(backbone)
    if backbone.family == "seq2seq":
        vectors = _of_two_caches(vectors, config["num_layers"] // 2)
    num_layers = vectors.shape[1] // (2 * config["token_dim"])
    if vectors.shape[1] != layers.width or num_layers != layers.num_layers:
        raise InputError(
            f"the prompt in {folder} is for {num_layers} layers of width {config['token_dim']}, the backbone has "
            f"{layers.num_layers} of width {layers.num_heads * layers.head_width}.",
            remedy,
        )
    if about.get("backbone", backbone.digest) != backbone.digest:
        raise InputError(f"the prompt in {folder} was made for another backbone of the same shape.", remedy)
    return Prompt(PromptEmbedding(vectors), place, layers).to(backbone.device)


def _config(prompt: Prompt, backbone: Backbone, method: PromptTuningMethod) -> PromptLearningConfig:

    common: dict[str, Any] = {
        "task_type": _TASK_TYPES[backbone.family],
        "num_virtual_tokens": prompt.num_vectors,
        "inference_mode": True,
    }
    if prompt.layers is not None:
        two = 2 if backbone.family == "seq2seq" else 1
        return PrefixTuningConfig(
            token_dim=prompt.layers.num_heads * prompt.layers.head_width,
            num_attention_heads=prompt.layers.num_heads,
            num_layers=prompt.layers.num_layers * two,
            num_transformer_submodules=two,
            **common,
        )
    kind = PromptEncoderConfig if method == "p_tuning" else PromptTuningConfig
    return kind(
        token_dim=prompt.vectors.shape[1],
        num_transformer_submodules=1,
        num_layers=backbone.model.config.num_hidden_layers,
        num_attention_heads=backbone.model.config.num_attention_heads,
        **common,
    )


def _for_two_caches(rows: Tensor, layers: KVLayout) -> Tensor:
    """PEFT deals a seq2seq prompt out to the decoder's two caches, four tensors a layer, and then empties the cache
    that is for the encoder's states: zeros stand in for these.
    """
    pairs = rows.unflatten(1, (layers.num_layers, 2 * layers.num_heads * layers.head_width))
    return F.pad(pairs, (0, pairs.shape[2])).flatten(1)


def _of_two_caches(rows: Tensor, num_layers: int) -> Tensor:
    pairs = rows.unflatten(1, (num_layers, -1))
    return torch.clone(pairs[:, :, : pairs.shape[2] // 2].flatten(1))


def load_trained_prompt(folder: Path, name: str, backbone: Backbone) -> tuple[Prompt, float, int]:
    """The prompt that was trained for the step `name`, its final loss, and how many parameters trained for it."""

    about: Mapping[str, Any] = json.loads((folder / name / "training.json").read_text())
    return load_prompt(folder / name / "prompt", backbone), about["final_loss"], about["trainable_parameters"]
