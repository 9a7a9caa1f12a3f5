"""Prompts of several tasks in service: one frozen backbone, and for each task its prompt, pattern and label words.

A folder that serves holds `prompt/` (PEFT's format) and `prompted.json`, which names task, pattern and backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from stages.errors import InputError
from stages.models.backbones import BackboneConfig, load
from stages.patterns.cloze import ClozeClassifier
from stages.prompts.head import load_head
from stages.prompts.peft_format import load_prompt
from stages.tasks import Task

ABOUT = "prompted.json"


class Prompted(BaseModel, frozen=True, extra="forbid"):
    """What a trained prompt serves."""

    task: Task = Field(description="Labels, pattern and label words.")
    pattern: str = Field(description="Name of the pattern.")
    backbone: BackboneConfig = Field(description="The frozen language model.")

    def save(self, folder: Path) -> None:
        """Writes it beside the prompt."""
        (folder / ABOUT).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_prompted(folders: Sequence[Path]) -> list[ClozeClassifier]:
    """Classifiers of all folders, over one resident backbone.

    Raises:
        InputError: the prompts are for different backbones, two are for one task, or one of several brings LoRA
            weights, which change the backbone for all.
    """
    abouts = [Prompted.model_validate_json((folder / ABOUT).read_text(encoding="utf-8")) for folder in folders]
    if len({about.backbone for about in abouts}) > 1:
        raise InputError("the prompts are for different backbones.", "Serve those of one backbone together.")
    names = [about.task.name for about in abouts]
    if len(set(names)) < len(names):
        raise InputError(f"two prompts are for the same task: {', '.join(names)}.", "Name one prompt a task.")
    adapters = [folder / "prompt" / "lora" for folder in folders if (folder / "prompt" / "lora").exists()]
    if adapters and len(folders) > 1:
        raise InputError("a prompt with LoRA weights cannot share its backbone.", f"Serve it alone: {adapters[0]}.")
    config = abouts[0].backbone
    backbone = load(config, frozen=True)
    for adapter in adapters:
        from peft import PeftModel

        PeftModel.from_pretrained(backbone.model, adapter)
        backbone.freeze()
    found = []
    for about, folder in zip(abouts, folders, strict=True):
        prompt = load_prompt(folder / "prompt", backbone)
        head = load_head(folder / "prompt", backbone.state_width, about.task.labels)
        found.append(ClozeClassifier.of(about.task, about.pattern, backbone, config, prompt, head=head))
    return found
