"""Config models of labels as hypotheses of natural language inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from stages.common.config import AssetRef, Config, TextTaskConfig
from stages.common.errors import InputError


class NliSettings(Config):
    """Settings of a member that labels texts by the hypotheses that they entail."""

    asset: AssetRef
    """Reference of a sequence classifier of transformers that was trained for natural language inference."""
    hypothesis: str = "This text is about {label}."
    """The hypothesis of each label. `{label}` is replaced by the label, or by its entry in `label_phrases`."""
    label_phrases: Mapping[str, str] = {}
    """Label -> its words in the hypothesis."""
    max_length: int = Field(256, ge=8)
    """Maximum number of tokens of a text with its hypothesis. The text is cut."""

    @model_validator(mode="after")
    def _hypothesis_has_label(self) -> Self:
        if "{label}" not in self.hypothesis:
            raise InputError(
                "all labels have the same hypothesis.", "Add {label} where the label belongs.", key="hypothesis"
            )
        return self

    def hypotheses(self, labels: tuple[str, ...]) -> list[str]:
        """Returns the hypothesis of each label."""
        return [self.hypothesis.replace("{label}", self.label_phrases.get(label, label)) for label in labels]


class NliConfig(TextTaskConfig, NliSettings):
    """One model of natural language inference. Nothing is trained."""
