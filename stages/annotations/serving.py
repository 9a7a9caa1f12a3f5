"""A trained prompt with its head in service: annotates texts that nobody has annotated.

A folder that serves holds `prompt/` (PEFT's format, with the head) and `annotating.json`, which names its task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from stages.annotations.answers import AnswerFinder
from stages.annotations.reading import Reading
from stages.annotations.tagger import Tagger
from stages.annotations.tasks import SpanTask, TokenTask
from stages.annotations.texts import AnnotationTask
from stages.models.backbones import BackboneConfig, load
from stages.prompts.head import load_head
from stages.prompts.peft_format import load_prompt

ABOUT = "annotating.json"


class Annotating(BaseModel, frozen=True, extra="forbid"):
    """What a trained prompt serves."""

    task: TokenTask | SpanTask = Field(discriminator="kind", description="What is asked of the texts.")
    backbone: BackboneConfig = Field(description="The frozen language model.")

    def save(self, folder: Path) -> None:
        """Writes it beside the prompt."""
        (folder / ABOUT).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def reading_of(task: AnnotationTask) -> type[Reading[Any, Any, Any]]:
    """What reads the annotations of a task."""
    return Tagger if task.kind == "tokens" else AnswerFinder


def load_annotating(folder: Path) -> Reading[Any, Any, Any]:
    """The prompt and head that the stage wrote to `folder`, on their backbone.

    Raises:
        InputError: they were made for another backbone.
    """
    about = Annotating.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
    kind = reading_of(about.task)
    backbone = load(about.backbone, frozen=True)
    if (folder / "prompt" / "lora").exists():
        from peft import PeftModel

        PeftModel.from_pretrained(backbone.model, folder / "prompt" / "lora")
        backbone.freeze()
    prompt = load_prompt(folder / "prompt", backbone)
    head = load_head(folder / "prompt", backbone.state_width, kind.outputs(about.task))
    return kind(about.task, backbone, about.backbone, prompt, head)
