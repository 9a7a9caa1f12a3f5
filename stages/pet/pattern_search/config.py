"""Config models of the pattern search."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from stages.common.config import AssetRef, Config, OptionalAssetRef
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


class MineConfig(Config):
    """Texts that occur in front of label words in the labeled and unlabeled texts (Jiang et al., TACL 2020)."""

    max_words: int = Field(4, ge=1)
    """Words of the longest text."""
    num_candidates: int = Field(20, ge=1)
    """Patterns that are proposed: those whose text occurs in front of words of most labels, and then most often."""
    min_count: int = Field(2, ge=1)
    """How often a text must occur in front of a label word."""


class ParaphraseConfig(Config):
    """Paraphrases of the texts of the pattern by one or two seq2seq models (Jiang et al., TACL 2020)."""

    model: AssetRef
    """Reference of a seq2seq model of transformers: a translator, or a model that writes paraphrases."""
    back_translation: OptionalAssetRef = None
    """Reference of the translator back. If not set, the first model writes the paraphrases."""
    prefix: str = ""
    """Put before each text for the first model, such as "paraphrase: "."""
    back_prefix: str = ""
    """Put before each text for the translator back."""
    beam_size: int = Field(7, ge=1)
    """Texts that a model writes for each text."""
    max_tokens: int = Field(32, ge=1)
    """Tokens of the longest text."""
    num_candidates: int = Field(20, ge=1)
    """Patterns that are proposed, the most likely ones."""

    @model_validator(mode="after")
    def _back_prefix_is_used(self) -> Self:
        if self.back_prefix and self.back_translation is None:
            raise InputError("back_prefix is for back_translation, which is not set.", "Remove it.", key="back_prefix")
        return self


class PatternSearchSettings(Config):
    """Settings of the search that a recipe defines. Each of edit, gradient, generate, mine and paraphrase adds
    candidates; all are compared.
    """

    edit: EditConfig | None = None
    """Edits of the pattern. If not set, there are none."""
    gradient: GradientConfig | None = None
    """Trigger words that gradients select. If not set, there are none."""
    generate: GenerateConfig | None = None
    """Text in front of the mask that a seq2seq model writes. If not set, there is none."""
    mine: MineConfig | None = None
    """Text in front of the mask that occurs in the data. If not set, there is none."""
    paraphrase: ParaphraseConfig | None = None
    """Texts that seq2seq models paraphrase. If not set, there are none."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. The whole search runs once per fold, and once on all."""
    max_examples: int = Field(200, ge=2)
    """Labeled examples that the search reads at most. If there are more, they are sampled."""

    @model_validator(mode="after")
    def _has_a_method(self) -> Self:
        if not (self.edit or self.gradient or self.generate or self.mine or self.paraphrase):
            raise InputError(
                "nothing proposes patterns.", "Set one of: edit: {}, gradient: {}, generate: {}, mine: {}.", key="edit"
            )
        return self


class PatternSearchConfig(ClozeConfig, PatternSearchSettings):
    """The search that starts from one pattern. `task` has no other patterns."""

    names: tuple[str, ...]
    """Names of the patterns of the recipe with this text. They get the best, the second best result, and so on."""
    seed: int = 0
    """Seed of the edits and of the sample of examples."""
