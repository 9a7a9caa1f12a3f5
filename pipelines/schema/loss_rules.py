"""Rules about the losses of language models. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from stages.common.errors import InputError
from stages.common.models.cloze.config import OVER_VOCABULARY
from stages.common.patterns.config import Task


def check_losses(config: PipelineConfig) -> None:
    """A loss over the vocabulary has words to predict: in multiple choice, labels are compared with each other."""
    uses: list[tuple[str, str, Task]] = [
        (f"{key}.loss", section.loss, config.task) for key, section in config.pet_sections.items()
    ]
    if config.prompts:
        uses += [("prompts.loss", config.prompts.loss, config.prompt_task(item)[0]) for item in config.prompts.tasks]
    for key, loss, task in uses:
        if loss in OVER_VOCABULARY and task.options:
            raise InputError(
                f"loss: {loss} predicts the words of a label, but the labels of {task.name} are options.",
                "Use another loss, or set as_choice in prompts.tasks.",
                key=key,
            )
    for key, section in config.pet_sections.items():
        if section.label_conditioning and config.task.options:
            raise InputError(
                "label_conditioning puts the word of a label into the text, but labels are options.",
                "Remove label_conditioning.",
                key=f"{key}.label_conditioning",
            )
