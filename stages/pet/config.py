"""Config models of PET and iPET: one sub-model, and how later generations select their examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, Tune
from stages.common.models.cloze.config import LossKind, MlmConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class SelectionConfig(Config):
    """How texts are drawn and labelled for the next generation."""

    scale_factor: float = Field(5.0, gt=1)
    """Growth of the training set from one generation to the next."""
    weights: Literal["uniform", "accuracy"] = "uniform"
    """Weights of the teachers: uniform, or accuracy before training."""
    examples_per_class: int = Field(10, ge=1)
    """Without labelled examples: texts a class in the first trained generation."""
    num_most_likely: int | None = Field(None, ge=1)
    """Without labelled examples: the first trained generation draws among so many texts that are likeliest of a class,
    even if another one is likelier; none: among those whose likeliest class it is.
    """


class IpetConfig(SelectionConfig):
    """The generations after the first."""

    generations: int = Field(2, ge=1)
    """Generations after the first; the paper's three in all are 2 here."""
    teacher_fraction: float = Field(0.25, gt=0, le=1)
    """Share of the other sub-models that label for one, at least one of them."""


class GenerationConfig(SelectionConfig):
    """One later generation, as a sub-model's step sees it: what comes after it is no part of its identity."""

    generation: int = Field(ge=1)
    """Number of the generation; the first one is 0."""
    from_zero: bool
    """Whether there are no labelled examples."""

    @classmethod
    def of(cls, ipet: IpetConfig, generation: int, has_labels: bool) -> GenerationConfig:
        """Generation number `generation` of `ipet`."""
        shared = {name: getattr(ipet, name) for name in SelectionConfig.model_fields}
        return cls(**shared, generation=generation, from_zero=not has_labels)

    def targets(self, labels: Sequence[str], gold: Sequence[Example]) -> dict[str, int]:
        """Label -> how many texts are to be drawn: the whole set's size less the labelled examples."""
        if self.from_zero:
            return dict.fromkeys(labels, round(self.examples_per_class * self.scale_factor ** (self.generation - 1)))
        counts = Counter(item.label for item in gold)
        return {label: round(counts[label] * self.scale_factor**self.generation) - counts[label] for label in labels}


class PetConfig(Config):
    """One sub-model."""

    task: Task
    """Labels, patterns and label words."""
    pattern: str
    """Name of the pattern to train."""
    backbone: BackboneConfig
    """The language model."""
    tune: Tune
    """What is trained: full (all weights), lora (adapters), prompt (a soft prompt), none (zero-shot)."""
    lora: LoraConfig = LoraConfig()
    """Adapters, for tune: lora."""
    prompt: PromptConfig = PromptConfig()
    """Soft prompt, for tune: prompt."""
    training: TrainingConfig | None
    """Length and rates of the training; none for tune: none."""
    loss: LossKind = "auto"
    """cross_entropy, hinge, or auto: hinge where a word has several tokens."""
    mlm: MlmConfig | None = None
    """The auxiliary loss on unlabelled text; masked models only."""
    growth: GenerationConfig | None = None
    """A later generation of iPET; none: labelled examples alone."""
    shots: int = Field(0, ge=0)
    """Demonstrations a class before each text, for tune: none."""
    label_unlabeled: bool = True
    """Also label the unlabelled pile, as members of the ensemble do."""
    seed: int
    """Seed of order, dropout, new weights and drawings."""
    name: str = ""
    """Name of its prompt among those that were trained together, if it was."""

    @model_validator(mode="after")
    def _parts_fit(self) -> PetConfig:
        if (self.training is None) != (self.tune == "none"):
            raise ValueError("tune: none takes no loop, and every other tune needs one. Mend tune or loop.")
        if self.tune == "none" and (self.mlm or self.growth):
            raise ValueError("tune: none takes neither mlm nor ipet, which train. Mend tune, or take them out.")
        if self.shots and self.tune != "none":
            raise ValueError("demonstrations are for tune: none. Mend tune or shots.")
        return self
