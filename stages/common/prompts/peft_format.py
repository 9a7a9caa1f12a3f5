"""Soft prompts on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, a few kilobytes.
PEFT has no format for some prefixes, nor for prompts that depend on the text: these are in files of this project.

`peft.PeftModel.from_pretrained(backbone, folder)` loads them. PEFT has no task type for masked language models and
cannot put vectors inside a pattern: such a prompt loads, but a plain PeftModel does not apply it, or applies it before
the text. This project follows `prompt.json`. LoRA weights that were trained with the prompt are in `lora/`. Files are
the same on every machine: no local paths, no order that depends on a hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptLearningConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import PromptPosition
from stages.common.prompts.config import PromptTuningMethod
from stages.common.prompts.deep_prompts import DeepLayout, KVLayout
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from stages.common.prompts.text_prompts import InstancePrompt, PromptMixture, TextReader


def tidy(folder: Path) -> None:
    """Cleans the files of PEFT's `save_pretrained`: sorts names, removes the local path and the empty model card."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


PROMPT_FILE = "prompt.json"
"""What PEFT's files do not say about a prompt that `save_prompt` wrote."""
_WEIGHTS = "adapter_model.safetensors"
_ROWS = "prefix.safetensors"
"""Keys and values in the encoder and in cross-attention, or of chosen layers, for which PEFT has no format."""
_NETWORK = "text_prompt.safetensors"
"""The network that computes the vectors of a text, with source prompts if any."""


def save_prompt(prompt: Prompt, backbone: Backbone, folder: Path, method: PromptTuningMethod = "prompt_tuning") -> None:
    """Writes a prompt to the new folder `folder`, without the module that reparameterized it.

    The network of a prompt that depends on the text is written too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if prompt.reader is not None:
        _save_text_prompt(prompt, prompt.reader, folder)
        return
    if prompt.layers is not None and not prompt.layers.is_in_peft_format:
        places = {
            "prefix_at": list(prompt.layers.parts),
            "lengths": prompt.layers.lengths,
            "backbone": backbone.digest,
        }
        (folder / PROMPT_FILE).write_text(json.dumps(places, sort_keys=True) + "\n")
        save_file({"rows": prompt.vectors.detach().cpu().contiguous()}, folder / _ROWS)
        return
    _config(prompt, backbone, method).save_pretrained(str(folder))
    tidy(folder)
    vectors_NW = prompt.vectors.detach().cpu()
    if prompt.layers is not None and backbone.num_peft_submodules == 2:
        vectors_NW = _pad_for_encoder_cache(vectors_NW, prompt.layers.parts["decoder"])
    metadata = {"place": prompt.position, "backbone": backbone.digest}
    (folder / PROMPT_FILE).write_text(json.dumps(metadata, sort_keys=True) + "\n")
    save_file({"prompt_embeddings": vectors_NW.contiguous()}, folder / _WEIGHTS)


def load_prompt(folder: Path, backbone: Backbone) -> Prompt:
    """Loads a prompt for `backbone`, written by `save_prompt` or by PEFT.

    Raises:
        InputError: the folder has no prompt, or the prompt was trained for another backbone.
    """
    path = folder / PROMPT_FILE
    metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "prefix_at" in metadata:
        return _load_prefix(folder, metadata, backbone)
    if "reading" in metadata:
        return _load_text_prompt(folder, metadata, backbone)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        vectors: Tensor = load_file(folder / _WEIGHTS)["prompt_embeddings"]
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{folder} has no soft prompt ({error}).", "Specify the folder `prompt` of a step.") from error
    is_deep = config["peft_type"] == "PREFIX_TUNING"
    metadata = {"place": "layers" if is_deep else "before", **metadata}
    position: PromptPosition = metadata["place"]
    is_other_backbone = metadata.get("backbone", backbone.digest) != backbone.digest
    remedy = "Use it with the backbone that it was trained on, or train a prompt for this one."
    if is_other_backbone and vectors.shape[1] == backbone.embedding_size:
        raise InputError(f"the prompt in {folder} was trained for another backbone of the same width.", remedy)
    if not is_deep:
        if vectors.shape[1] != backbone.embedding_size:
            raise InputError(
                f"the prompt in {folder} has vectors of width {vectors.shape[1]}, the backbone has width "
                f"{backbone.embedding_size}.",
                remedy,
            )
        return Prompt(PromptEmbedding(vectors), position).to(backbone.device)
    layout = DeepLayout.of(backbone)
    layers = layout.parts["decoder"]
    num_layers = config["num_layers"]
    if backbone.num_peft_submodules == 2:
        num_layers //= 2 if path.exists() else 1  # `save_prompt` also counts the cache for the encoder
        vectors = _without_encoder_cache(vectors, config["num_layers"], num_layers)
    if vectors.shape[1] != layers.width or num_layers != layers.num_layers:
        raise InputError(
            f"the prompt in {folder} is for {num_layers} layers of width {config['token_dim']}, the backbone has "
            f"{layers.num_layers} of width {layers.num_heads * layers.head_width}.",
            remedy,
        )
    if is_other_backbone:
        raise InputError(f"the prompt in {folder} was trained for another backbone of the same shape.", remedy)
    return Prompt(PromptEmbedding(vectors), position, layout).to(backbone.device)


def _load_prefix(folder: Path, metadata: Mapping[str, Any], backbone: Backbone) -> Prompt:
    """Loads a prompt that PEFT has no format for.

    Raises:
        InputError: it was trained for another backbone.
    """
    layout = DeepLayout.of(backbone, metadata["prefix_at"], metadata["lengths"])
    rows_PW = load_file(folder / _ROWS)["rows"]
    if metadata["backbone"] != backbone.digest or rows_PW.shape[1] != layout.width:
        raise InputError(
            f"the prompt in {folder} was trained for another backbone.",
            "Use it with the backbone that it was trained on, or train a prompt for this one.",
        )
    return Prompt(PromptEmbedding(rows_PW), "layers", layout).to(backbone.device)


def _save_text_prompt(prompt: Prompt, reader: TextReader, folder: Path) -> None:
    """Writes a prompt that depends on the text: the network, and what it reads."""
    metadata: dict[str, Any] = {"place": prompt.position, "reading": reader.kind, "backbone": reader.backbone.digest}
    if isinstance(prompt.table, PromptMixture):
        metadata["temperature"] = prompt.table.temperature
    (folder / PROMPT_FILE).write_text(json.dumps(metadata, sort_keys=True) + "\n")
    tensors = {name: value.detach().cpu().contiguous() for name, value in prompt.table.state_dict().items()}
    save_file(tensors, folder / _NETWORK)


def _load_text_prompt(folder: Path, metadata: Mapping[str, Any], backbone: Backbone) -> Prompt:
    """Loads a prompt that depends on the text.

    Raises:
        InputError: it was trained for another backbone.
    """
    if metadata["backbone"] != backbone.digest:
        raise InputError(
            f"the prompt in {folder} was trained for another backbone.",
            "Use it with the backbone that it was trained on, or train a prompt for this one.",
        )
    tensors = load_file(folder / _NETWORK)
    bottleneck, input_size = tensors["down.weight"].shape
    module: InstancePrompt | PromptMixture
    if "sources" in tensors:
        module = PromptMixture(tensors["target"], tensors["sources"], bottleneck, metadata["temperature"])
    else:
        vectors_ND = tensors["up.bias"].unflatten(0, (-1, backbone.embedding_size))
        module = InstancePrompt(vectors_ND, input_size, bottleneck)
    module.load_state_dict(tensors)
    return Prompt(module, metadata["place"], reader=TextReader(backbone, metadata["reading"])).to(backbone.device)


def _config(prompt: Prompt, backbone: Backbone, method: PromptTuningMethod) -> PromptLearningConfig:
    common: dict[str, Any] = {
        "task_type": backbone.peft_task_type,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "inference_mode": True,
    }
    if prompt.layers is not None:
        layers = prompt.layers.parts["decoder"]
        return PrefixTuningConfig(
            token_dim=layers.num_heads * layers.head_width,
            num_attention_heads=layers.num_heads,
            num_layers=layers.num_layers * backbone.num_peft_submodules,
            num_transformer_submodules=backbone.num_peft_submodules,
            **common,
        )
    config_class = PromptEncoderConfig if method == "p_tuning" else PromptTuningConfig
    settings = backbone.model.config.get_text_config()
    return config_class(
        token_dim=prompt.vectors.shape[1],
        num_transformer_submodules=1,
        num_layers=settings.num_hidden_layers,
        num_attention_heads=getattr(settings, "num_attention_heads", 1),  # FNet has no attention
        **common,
    )


def _pad_for_encoder_cache(rows_NW: Tensor, layers: KVLayout) -> Tensor:
    """PEFT splits a seq2seq prompt into four tensors per layer, two for each cache of the decoder, and then empties the
    cache for the encoder's states. This adds zeros for that cache.
    """
    pairs = rows_NW.unflatten(1, (layers.num_layers, 2 * layers.num_heads * layers.head_width))
    return F.pad(pairs, (0, pairs.shape[2])).flatten(1)


def _without_encoder_cache(rows_NW: Tensor, num_saved_layers: int, num_layers: int) -> Tensor:
    """Returns what PEFT uses of a saved seq2seq prompt: it repeats all tensors, and gives each layer the next four, of
    which the first two are keys and values of the decoder.
    """
    tensors = rows_NW.unflatten(1, (2 * num_saved_layers, -1))
    repeated = torch.cat([tensors, tensors], dim=1)[:, : 4 * num_layers]
    used_NW: Tensor = repeated.unflatten(1, (num_layers, 4))[:, :, :2].flatten(1).clone()
    return used_NW


class TrainedPrompt(NamedTuple):
    """A prompt of batched training, its final loss, and the number of its trainable parameters."""

    prompt: Prompt
    final_loss: float
    num_parameters: int


def load_trained_prompt(folder: Path, name: str, backbone: Backbone) -> TrainedPrompt:
    """Loads the prompt that a step of batched training trained for the step `name`."""
    metadata = json.loads((folder / name / "training.json").read_text(encoding="utf-8"))
    prompt = load_prompt(folder / name / "prompt", backbone)
    return TrainedPrompt(prompt, metadata["final_loss"], metadata["trainable_parameters"])
