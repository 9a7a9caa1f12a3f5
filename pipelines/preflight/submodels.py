"""Checks what sub-models train on, and what they read, against their backbones."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import PetSection
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Family


def check_auxiliary_losses(section: PetSection, key: str, family: Family, backbone: BackboneConfig) -> None:
    """Checks that the backbone can predict hidden tokens of a text, if a loss hides some. `key`: of the section.

    Raises:
        InputError: with the key of the loss.
    """
    if family == "masked":
        return
    name = backbone.asset.partition("#")[0]
    if section.mlm is not None:
        raise InputError(
            f"the auxiliary loss (mlm) is for masked models; {name} is {family}.",
            "Remove mlm, or use a masked backbone.",
            key=f"{key}.mlm",
        )
    if section.label_conditioning is not None:
        reason = (
            "predicts the tokens of a text before it reads the label word"
            if family == "causal"
            else "writes spans and predicts no single hidden tokens"
        )
        raise InputError(
            f"label_conditioning predicts hidden tokens of the text, given the label word; {name} is {family}, and "
            f"{reason}.",
            "Remove label_conditioning and keep loss: decoupled, or use a masked backbone.",
            key=f"{key}.label_conditioning",
        )


def check_demonstration_lengths(config: PipelineConfig, key: str, num_positions: int) -> None:
    """Checks that one demonstration per label fits next to the longest text. `key`: of a backbone.

    Raises:
        InputError: with the key of the length of demonstrations.
    """
    section_key = "pet" if key == "backbone" else key.removesuffix(".backbone")
    section = config.pet_sections.get(section_key)
    if section is None or section.demonstrations is None:
        return
    num_labels, length = len(config.task.labels), section.demonstrations.max_length
    num_virtual_tokens = section.prompt.prompt_length if section.tune == "prompt" else 0
    num_others = config.backbones[key].max_length + num_virtual_tokens
    if num_others + num_labels * length > num_positions:
        raise InputError(
            f"{num_labels} demonstrations of {length} tokens, with {num_others} of text and prompt, are more than the "
            f"{num_positions} positions of the model.",
            f"Lower it to {max(num_positions - num_others, 0) // num_labels} or less, or lower {key}.max_length.",
            key=f"{section_key}.demonstrations.max_length",
        )
