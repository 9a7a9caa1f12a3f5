"""A sub-model: one pattern on one backbone, all of it trained, a LoRA adapter or a soft prompt trained, or nothing.

Its files are `submodel.json` and, by its `tune`, `adapter/` (PEFT's LoRA format, megabytes), `prompt/` (PEFT's format,
kilobytes) or `model/` (the whole backbone).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from stages.models.adapters import tidy
from stages.models.backbones import Backbone, BackboneConfig, load
from stages.models.residents import borrowed
from stages.patterns.cloze import ClozeClassifier
from stages.protocols import Engine
from stages.tasks import Task

Tune = Literal["full", "lora", "prompt", "none"]


class LoraConfig(BaseModel, frozen=True, extra="forbid"):
    """Low-rank adapters (Hu et al., ICLR 2022) on the linear layers of the backbone."""

    rank: int = Field(8, ge=1, description="Rank of the update of each matrix.")
    alpha: float = Field(16.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Names of the adapted layers, or all-linear for every one but the LM head."
    )


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
            from stages.prompts.peft_format import save_prompt

            save_prompt(self.prompt, self.backbone, out / "prompt")


@contextmanager
def fresh(
    config: BackboneConfig, tune: Tune, lora: LoraConfig, seed: int, engine: Engine | None = None
) -> Iterator[SubModel]:
    """A new sub-model: `full` on weights of its own, others on the resident backbone, `lora` with new adapters."""
    if tune == "full":
        yield SubModel(load(config, frozen=False), tune)
        return
    with borrowed(config, engine) as backbone:
        if tune in ("none", "prompt"):  # a prompt is put before the text by whoever reads it
            yield SubModel(backbone, tune)
            return
        import torch
        from peft import LoraConfig as PeftLora
        from peft import get_peft_model

        torch.manual_seed(seed)
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        settings = PeftLora(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        adapter = get_peft_model(backbone.model, settings)
        yield SubModel(backbone, tune, adapter)
        adapter.unload()


@contextmanager
def saved(folder: Path, task: Task, config: BackboneConfig) -> Iterator[ClozeClassifier]:
    """The sub-model that lies in `folder`, ready to predict."""
    about = json.loads((folder / "submodel.json").read_text())
    if about["tune"] == "full":
        backbone = load(config.model_copy(update={"asset": str(folder / "model")}), frozen=True)
        yield ClozeClassifier.of(task, about["pattern"], backbone, config)
        return
    with borrowed(config) as backbone:
        adapter = prompt = None
        if about["tune"] == "prompt":
            from stages.prompts.peft_format import load_prompt

            prompt = load_prompt(folder / "prompt", backbone)
        if about["tune"] == "lora":
            from peft import PeftModel

            adapter = PeftModel.from_pretrained(backbone.model, folder / "adapter")
            backbone.freeze()
        yield ClozeClassifier.of(task, about["pattern"], backbone, config, prompt)
        if adapter is not None:
            adapter.unload()
