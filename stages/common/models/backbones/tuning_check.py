"""Checks on a small copy of a model that a way to tune it changes what the model computes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import AutoConfig

from stages.common.errors import InputError
from stages.common.models.backbones.config import Tune, TuneConfig
from stages.common.models.backbones.tuning import bottlenecks, peft_adapter, select_parameters
from stages.common.models.meta_models import language_model_class
from stages.common.models.model_files import architecture_of, family_of
from stages.common.models.twins import build_twin
from stages.common.patterns.config import Family

CHECKED: tuple[Tune, ...] = ("top_layers", "biases", "ia3", "adapter")
"""What is checked here. Traits of an architecture say whether LoRA and prompts work."""


def check_tune(tune: Tune, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Checks that what is tuned has an effect on the logits of the model in `folder`.

    Raises:
        InputError: with the technical reason.
    """
    family = family_of(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model_class = language_model_class(folder, config, family, trust_remote_code=trust_remote_code)
    try:
        twin = build_twin(model_class, config, family)
    except ValueError as error:
        problem = f"a small copy cannot be run ({error})"
    else:
        problem = _problem(tune, twin, family)
    if problem:
        raise InputError(
            f"{architecture_of(folder)} does not support tune: {tune}: {problem}.", "Set tune: lora.", key="tune"
        )


def _problem(tune: Tune, twin: torch.nn.Module, family: Family) -> str:
    """Returns why a twin cannot be tuned; empty if it can."""
    settings = TuneConfig(tune=tune, num_top_layers=1)
    twin.requires_grad_(False)
    try:
        with ExitStack() as stack:
            if tune == "ia3":
                stack.enter_context(peft_adapter(twin, settings, seed=0))
            elif tune == "adapter":
                stack.enter_context(bottlenecks(twin, size=2, seed=0))
            else:
                select_parameters(twin, settings)
            trained = {name: item for name, item in twin.named_parameters() if item.requires_grad}
            if not trained:
                return "it has no such parameters"
            text = torch.arange(7, 16)[None]
            logits = twin(input_ids=text, **({"decoder_input_ids": text} if family == "seq2seq" else {})).logits
            gradients = torch.autograd.grad(logits.square().sum(), list(trained.values()), allow_unused=True)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
    unused = [name for name, item in zip(trained, gradients, strict=True) if item is None]
    return f"{unused[0]} has no effect" if unused and tune in ("ia3", "adapter") else ""
