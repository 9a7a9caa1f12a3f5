"""Config models of prompt pretraining: the prompt, its corpus, and the model that pseudo-labels sentences."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from stages.common.config import Config, OptionalAssetRef
from stages.common.data.config import CorpusConfig
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.config import LossKind
from stages.common.models.config import Calibration
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import Pattern
from stages.common.prompts.config import InitConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining.formats import NumOptions, PretrainingFormat, corpus_requirements, task_of

PATTERN_NAME = "label"
"""Name of the pattern that pseudo-labels sentences."""


class SingleConfig(Config):
    """How sentences are pseudo-labeled for the format `single`."""

    verbalizer: dict[str, list[str]] = Field(
        {word: [word] for word in ("terrible", "bad", "okay", "good", "great")}, min_length=2
    )
    """Label -> label words, for pseudo-labeling and for the pretraining task."""
    pattern: str = "Review: {text}\nSentiment:{mask}"
    """Pattern with which the backbone labels a sentence, the field `text`."""
    calibration: Calibration = "unlabeled"
    """How the prior preference of the backbone for a label is removed: none, contextual (with texts without content),
    or unlabeled (with the first sentences, as if their labels were equally frequent).
    """
    classifier: OptionalAssetRef = None
    """Folder of a trained student (`model` of a step), which labels instead of the backbone. Its labels must be the
    keys of verbalizer. If not set, the backbone labels.
    """
    min_confidence: float = Field(0.5, ge=0, lt=1)
    """Sentences whose highest probability is lower are left out."""
    candidates_per_example: int = Field(10, ge=1)
    """Maximum number of sentences to label per example to build."""

    @field_validator("pattern")
    @classmethod
    def _pattern_reads_text(cls, text: str) -> str:
        parsed = Pattern.parse("pattern", text)
        if parsed.fields != ("text",) or parsed.has_soft_blocks:
            raise InputError(
                f"the pattern {text!r} must have the field text, no other field and no soft block.",
                "Use {text} and {mask} only.",
            )
        return text

    @model_validator(mode="after")
    def _every_label_has_words(self) -> SingleConfig:
        empty = [label for label, words in self.verbalizer.items() if not words]
        if empty:
            raise InputError(f"the label {empty[0]!r} has no word.", "Add one.", key=f"verbalizer.{empty[0]}")
        return self

    @property
    def task(self) -> Task:
        """The task that the backbone solves to pseudo-label a sentence."""
        return Task(
            name="labeling",
            labels=tuple(self.verbalizer),
            patterns={PATTERN_NAME: self.pattern},
            verbalizer=self.verbalizer,
        )


class ExamplesSettings(Config):
    """Settings of pretraining examples that a recipe defines."""

    single: SingleConfig = SingleConfig()
    """How sentences are pseudo-labeled, for single."""
    num_held_out: int = Field(120, ge=3)
    """Examples that are not used for training, to measure what the prompt has learned."""


class PretrainingSettings(ExamplesSettings):
    """Settings of prompt pretraining that a recipe defines."""

    num_virtual_tokens: int = Field(16, ge=1)
    """Length of the prompt."""
    init: InitConfig = InitConfig()
    """Initialization of the prompt."""
    loss: LossKind = "auto"
    """auto or cross_entropy: over the label words; vocabulary: over the full vocabulary, as in the paper;
    decoupled: a binary cross-entropy per label over the full vocabulary.
    """
    training: TrainingConfig
    """Length, learning rate and batch size."""


class ExamplesConfig(ExamplesSettings):
    """Base of configs of stages that build or use pretraining examples."""

    format: PretrainingFormat = "pair"
    """Format of the examples: pair, choice, single or unified."""
    num_options: tuple[NumOptions, NumOptions] = (6, 6)
    """Minimum and maximum number of options per example, for choice and unified."""
    corpus: CorpusConfig
    """The raw text."""
    seed: int = 0
    """Seed of the examples and, if a prompt is trained, of its initialization and the order of examples."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        fewest, most = self.num_options
        if fewest > most:
            raise InputError(
                f"the minimum of num_options ({fewest}) is higher than its maximum ({most}).",
                "Put the lower number first.",
                key="num_options",
            )
        num_documents = corpus_requirements(self.format, most).documents
        if self.corpus.window < num_documents:
            raise InputError(
                f"the format {self.format} needs a window of at least {num_documents} documents.",
                "Raise corpus.window.",
                key="corpus.window",
            )
        return self

    @property
    def num_examples(self) -> int:
        """Number of examples to build, with those that are held out."""
        return self.corpus.num_examples + self.num_held_out


class PretrainingConfig(ExamplesConfig, PretrainingSettings):
    """A prompt and the text that it is pretrained on."""

    backbone: BackboneConfig
    """The frozen language model."""

    @property
    def task(self) -> Task:
        """The format as a cloze task, with a pattern for each family of backbones."""
        return task_of(self.format, self.num_options[1], self.single.verbalizer)
