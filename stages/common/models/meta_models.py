"""Models of transformers without their weights: the auto class of a family, and a model on torch's meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from stages.common.models.model_files import family_of
from stages.common.models.twins import model_class_of
from stages.common.patterns.config import Family


def adapted_layer_sizes(model: nn.Module) -> dict[str, int]:
    """Returns name of a layer -> sum of inputs and outputs of all layers of this name, as PEFT without the LM head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and module is not head:
            last = name.rpartition(".")[2]
            sizes[last] = sizes.get(last, 0) + sum(getattr(module, "weight").shape)  # noqa: B009
    return sizes


def auto_class_for(family: Family) -> Any:
    """Returns the class of transformers that loads a language model of this family with its LM head."""
    classes: dict[Family, Any] = {
        "masked": AutoModelForMaskedLM,
        "causal": AutoModelForCausalLM,
        "seq2seq": AutoModelForSeq2SeqLM,
    }
    return classes[family]


def language_model_class(folder: Path, config: Any, family: Family, *, trust_remote_code: bool) -> Any:
    """Returns the class of the model in `folder`, from its code if that may run; None if there is none.

    The auto classes of transformers keep the first class that a process loaded, also after its code has changed.
    """
    auto_class = auto_class_for(family)
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class.__name__)
    if trust_remote_code and reference:
        model_class: Any = get_class_from_dynamic_module(reference, folder)
        model_class.register_for_auto_class(auto_class.__name__)  # so that a saved model has its code
        return model_class
    return model_class_of(config, family)


def meta_model(folder: Path, *, trust_remote_code: bool = False) -> nn.Module:
    """Returns the model in `folder` on torch's meta device, where weights have shapes but use no memory."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        if trust_remote_code:
            model_class = language_model_class(folder, config, family_of(folder), trust_remote_code=True)
            return cast("nn.Module", model_class(config))
        model: nn.Module = auto_class_for(family_of(folder)).from_config(config)
    return model


def largest_weight(folder: Path, *, trust_remote_code: bool = False) -> int:
    """Returns the number of elements of the largest weight of the model in `folder`."""
    return max(weight.numel() for weight in meta_model(folder, trust_remote_code=trust_remote_code).parameters())
