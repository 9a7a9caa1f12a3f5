"""Config models of text generation: the task, how texts are decoded, and the settings of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config, Name
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Truncation
from stages.common.patterns.syntax import Pattern
from stages.common.prompts.config import PromptConfig, check_fit

SERVING_FILE = "generation_model.json"
MASK = "{mask}"
NUM_BEAMS = 4
"""Beams of `strategy: beam` if the recipe sets no number."""
Strategy = Literal["greedy", "beam", "sample"]
_OF_STRATEGY: dict[str, Strategy] = {
    "num_beams": "beam",
    "length_penalty": "beam",
    "temperature": "sample",
    "top_p": "sample",
    "seed": "sample",
}
"""Key -> the only strategy that uses it."""


class DecodingConfig(Config):
    """How tokens of the output are chosen."""

    strategy: Strategy = "greedy"
    """greedy (the most likely next token), beam (the most likely text among several beginnings), or sample."""
    num_beams: int | None = Field(None, ge=2, description=f"Number of beams, for beam. If not set: {NUM_BEAMS}.")
    length_penalty: float | None = None
    """Power of the length by which the log-likelihood of a text is divided, for beam: above 0, longer texts are
    preferred. If not set: 1.
    """
    temperature: float | None = Field(None, gt=0)
    """Logits are divided by it, for sample: below 1, likely tokens become more likely. If not set: 1."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Samples from the fewest most likely tokens with at least this probability together, for sample. If not set: 1.
    """
    seed: int | None = Field(None, ge=0)
    """Seed, for sample. If not set: 0."""

    @model_validator(mode="after")
    def _keys_fit_strategy(self) -> DecodingConfig:
        for key, strategy in _OF_STRATEGY.items():
            if getattr(self, key) is not None and self.strategy != strategy:
                raise InputError(
                    f"{key} is for strategy: {strategy}, not for {self.strategy}.",
                    f"Remove {key}, or set strategy: {strategy}.",
                    key=key,
                )
        return self

    @property
    def width(self) -> int:
        """Texts that are continued at the same time for each input."""
        return (self.num_beams or NUM_BEAMS) if self.strategy == "beam" else 1


class TargetSettings(Config):
    """What training reads of a text generation task: its inputs and its targets."""

    pattern: str
    """Text of the input, with fields of the data in braces, and soft blocks if wanted. A causal model continues it with
    the target; a seq2seq model reads it and writes the target. Spaces at the end are part of the target.
    """
    max_new_tokens: int = Field(64, ge=1)
    """Maximum number of tokens of an output, with the token that ends it. Longer targets are cut in training."""
    truncation: Truncation = "longest"
    """Which field is shortened if an input is longer than the max_length of the backbone: longest or last."""

    @model_validator(mode="after")
    def _pattern_parses(self) -> Self:
        if MASK in self.pattern:
            raise InputError(
                f"the target follows the pattern, which therefore has no {MASK}: {self.pattern!r}.",
                f"Remove {MASK}.",
                key="pattern",
            )
        try:
            _ = self.input_pattern
        except InputError as error:
            raise error.at(key="pattern") from error
        return self

    @property
    def input_pattern(self) -> Pattern:
        """The parsed pattern. The mask at its end is where the target starts."""
        return Pattern.parse("input", self.pattern + MASK)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the data that the pattern reads."""
        return self.input_pattern.fields

    @property
    def space(self) -> str:
        """Spaces at the end of the pattern, which a tokenizer has to see together with the target."""
        return self.pattern[len(self.pattern.rstrip(" ")) :]


class GenerationSettings(TargetSettings):
    """Settings of a text generation task that a recipe defines. Those of this class change no training."""

    decoding: DecodingConfig = DecodingConfig()
    """How outputs are generated."""
    units: Literal["words", "characters"] = "words"
    """What BLEU and ROUGE count: words, or characters in scripts that put no spaces between words."""


class TargetTask(TargetSettings):
    """A text generation task in training."""

    name: Name
    """Name of the task; part of step names."""


class GenerationTask(GenerationSettings, TargetTask):
    """A text generation task."""


class GenerationServingConfig(Config):
    """What is needed to generate texts with a saved prompt."""

    task: GenerationTask
    """The task."""
    backbone: BackboneConfig
    """The frozen language model."""

    def save(self, folder: Path) -> None:
        """Writes the config to the folder of the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_fits_generation(config: PromptConfig, task: GenerationSettings) -> None:
    """Checks that a method can generate texts: that it needs no head and no label words, and fits the pattern.

    Raises:
        InputError: with the key of the setting.
    """
    if config.head is not None:
        raise InputError(
            f"head: {config.head} scores labels, but a generation task has none: the language model writes the text.",
            "Remove head from this method.",
            key="head",
        )
    if config.init != "ppt" and config.init.kind == "label_words":
        raise InputError(
            "init: label_words needs label words, but a generation task has none.",
            "Set another kind, such as sample_vocab.",
            key="init",
        )
    check_fit(config, task.input_pattern)
