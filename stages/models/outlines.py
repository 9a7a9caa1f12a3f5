"""Models of transformers without their weights: the class that reads a family, and a model's outline by config.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.models.model_files import family_of
from stages.patterns.encoding import Family

if TYPE_CHECKING:
    from torch import nn


def class_of(family: Family) -> Any:
    """What reads a language model of this family, its LM head with it."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    kinds: dict[Family, Any] = {
        "masked": AutoModelForMaskedLM,
        "causal": AutoModelForCausalLM,
        "seq2seq": AutoModelForSeq2SeqLM,
    }
    return kinds[family]


def outline(folder: Path) -> nn.Module:
    """The model in `folder` on torch's meta device, where weights have shapes and take no memory."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: nn.Module = class_of(family_of(folder)).from_config(config)
    return model


def largest_weight(folder: Path) -> int:
    """Numbers of the largest single weight of the model in `folder`."""
    return max(weight.numel() for weight in outline(folder).parameters())
