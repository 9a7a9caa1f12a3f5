"""Sub-models: one pattern on one backbone, with full fine-tuning, a LoRA adapter, a soft prompt, or no training.

The files are `submodel.json` and, depending on its `tune`, `adapter/` (PEFT's LoRA format, megabytes), `prompt/`
(PEFT's format, kilobytes) or `model/` (the full backbone).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, Tune
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.prompts.peft_format import save_prompt, tidy
from stages.common.protocols import Engine


@dataclass(slots=True)
class SubModel:
    """A backbone with its trainable parameters marked. `adapter` is PEFT's wrapper for tune: lora, `prompt` the soft
    prompt for tune: prompt; else None.
    """

    backbone: Backbone
    tune: Tune
    adapter: Any = None
    prompt: Any = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> trainable parameter; empty for `none`."""
        if self.prompt is not None:
            return dict(self.prompt.named_parameters())
        return {name: item for name, item in self.backbone.model.named_parameters() if item.requires_grad}

    def save(self, pattern: str, out: Path) -> None:
        """Writes the sub-model to `out`."""
        (out / "submodel.json").write_text(json.dumps({"pattern": pattern, "tune": self.tune}) + "\n")
        if self.tune == "full":
            self.backbone.model.save_pretrained(out / "model")
            self.backbone.tokenizer.save_pretrained(out / "model")
        elif self.tune == "lora":
            self.adapter.save_pretrained(out / "adapter")
            tidy(out / "adapter")
        elif self.tune == "prompt":
            save_prompt(self.prompt, self.backbone, out / "prompt")


@contextmanager
def new_submodel(
    config: BackboneConfig, tune: Tune, lora: LoraConfig, seed: int, engine: Engine | None = None
) -> Iterator[SubModel]:
    """A new sub-model: `full` on weights of its own, others on the resident backbone, `lora` with new adapters."""
    if tune == "full":
        yield SubModel(load_backbone(config, frozen=False), tune)
        return
    with borrow_backbone(config, engine) as backbone:
        if tune in ("none", "prompt"):  # a prompt is put before the text by whoever reads it
            yield SubModel(backbone, tune)
            return

        torch.manual_seed(seed)
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        settings = PeftLora(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        adapter = get_peft_model(backbone.model, settings)
        yield SubModel(backbone, tune, adapter)
        adapter.unload()
