"""Config models of the pattern search."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.config import ClozeConfig

CANDIDATES_FILE = "candidates.jsonl"
"""The best candidates of a search with their scores, the best first."""


class EditConfig(Config):
    """Edits of the text of a pattern, without gradients (GrIPS, Prasad et al., EACL 2023)."""

    num_rounds: int = Field(10, ge=1)
    """Rounds. Each one edits the best pattern so far."""
    num_candidates: int = Field(10, ge=1)
    """Edited patterns per round."""
    patience: int = Field(2, ge=1)
    """Rounds without a better pattern before the search stops."""
    max_words: int = Field(3, ge=1)
    """Words of the longest phrase that is deleted or swapped."""
    phrases: tuple[str, ...] = ()
    """Phrases that can be added. Phrases that were deleted before are always among them."""


class GradientConfig(Config):
    """Trigger words in front of the mask, which gradients select one by one (AutoPrompt, Shin et al., EMNLP 2020)."""

    num_words: int = Field(3, ge=1)
    """Trigger words. They are inserted before the text that the pattern has in front of the mask."""
    num_candidates: int = Field(10, ge=1)
    """Words that are tried per replacement: those that lower the loss most in a linear approximation."""
    num_steps: int = Field(20, ge=1)
    """Maximum number of replacements that are tried. The search stops earlier if no position has a better word."""


class GenerateConfig(Config):
    """Text in front of the mask that a seq2seq model writes for all labeled examples (LM-BFF, Gao et al., ACL 2021)."""

    backbone: BackboneConfig | None = None
    """A seq2seq model, such as T5. If not set, the backbone of the recipe, which must be one."""
    beam_size: int = Field(20, ge=1)
    """Texts that the beam search keeps, and patterns that it proposes."""
    max_tokens: int = Field(10, ge=1)
    """Tokens of the longest text."""


class PatternSearchSettings(Config):
    """Settings of the search that a recipe defines. Each of edit, gradient and generate adds candidates; all are
    compared.
    """

    edit: EditConfig | None = None
    """Edits of the pattern. If not set, there are none."""
    gradient: GradientConfig | None = None
    """Trigger words that gradients select. If not set, there are none."""
    generate: GenerateConfig | None = None
    """Text in front of the mask that a seq2seq model writes. If not set, there is none."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. The whole search runs once per fold, and once on all."""
    max_examples: int = Field(200, ge=2)
    """Labeled examples that the search reads at most. If there are more, they are sampled."""

    @model_validator(mode="after")
    def _has_a_method(self) -> Self:
        if not (self.edit or self.gradient or self.generate):
            raise InputError(
                "nothing proposes patterns.", "Set one of: edit: {}, gradient: {}, generate: {}.", key="edit"
            )
        return self


class PatternSearchConfig(ClozeConfig, PatternSearchSettings):
    """The search that starts from one pattern. `task` has no other patterns."""

    names: tuple[str, ...]
    """Names of the patterns of the recipe with this text. They get the best, the second best result, and so on."""
    seed: int = 0
    """Seed of the edits and of the sample of examples."""
