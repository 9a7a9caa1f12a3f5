"""Sub-models: one pattern on one backbone, with full fine-tuning, a LoRA adapter, a soft prompt, or no training.

The files are `submodel.json` and, depending on its `tune`, `adapter/` (PEFT's LoRA format, megabytes), `prompt/`
(PEFT's format, kilobytes) or `model/` (the full backbone).
"""

from __future__ import annotations

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
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptServingConfig
from stages.common.prompts.peft_format import save_prompt, tidy
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine

SUBMODEL_FILE = "submodel.json"


class SubModelMetadata(PromptServingConfig):
    """What a sub-model is: task, pattern, backbone, and what of the backbone was tuned."""

    tune: Tune

    @classmethod
    def load(cls, folder: Path) -> SubModelMetadata:
        """Reads the metadata of the sub-model in `folder`."""
        return cls.model_validate_json((folder / SUBMODEL_FILE).read_text(encoding="utf-8"))


@dataclass(slots=True)
class SubModel:
    """A backbone with its trainable parameters marked."""

    backbone: Backbone
    config: BackboneConfig
    tune: Tune
    adapter: Any = None
    """PEFT's wrapper, for tune: lora."""
    prompt: Prompt | None = None
    """The soft prompt, for tune: prompt."""

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> trainable parameter; empty for tune: none."""
        if self.prompt is not None:
            return dict(self.prompt.named_parameters())
        return {name: item for name, item in self.backbone.model.named_parameters() if item.requires_grad}

    def save(self, task: Task, pattern: str, out: Path) -> None:
        """Writes the sub-model for a pattern of `task` to `out`."""
        metadata = SubModelMetadata(task=task, pattern=pattern, backbone=self.config, tune=self.tune)
        (out / SUBMODEL_FILE).write_text(metadata.model_dump_json() + "\n", encoding="utf-8")
        if self.tune == "full":
            self.backbone.model.save_pretrained(out / "model")
            self.backbone.tokenizer.save_pretrained(out / "model")
        elif self.tune == "lora":
            self.adapter.save_pretrained(out / "adapter")
            tidy(out / "adapter")
        elif self.prompt is not None:
            save_prompt(self.prompt, self.backbone, out / "prompt")


@contextmanager
def new_submodel(
    config: BackboneConfig, tune: Tune, lora: LoraConfig, seed: int, engine: Engine | None = None
) -> Iterator[SubModel]:
    """Yields a new sub-model: `full` with separate weights, others on the cached backbone, `lora` with an adapter."""
    if tune == "full":
        yield SubModel(load_backbone(config, frozen=False), config, tune)
        return
    with borrow_backbone(config, engine) as backbone:
        if tune in ("none", "prompt"):  # the caller adds the prompt
            yield SubModel(backbone, config, tune)
            return
        torch.manual_seed(seed)
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        settings = PeftLora(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        adapter = get_peft_model(backbone.model, settings)
        yield SubModel(backbone, config, tune, adapter)
        adapter.unload()
