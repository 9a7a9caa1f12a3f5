"""Config models of PET, iPET and LiST: one sub-model, and what later generations learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.config import TuneConfig
from stages.common.models.cloze.config import (
    ClozeConfig,
    LabelConditioningConfig,
    LossKind,
    MlmConfig,
    SampledDemonstrationsConfig,
)
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class SelectionConfig(Config):
    """How examples are selected and labeled for the next generation."""

    scale_factor: float = Field(5.0, gt=1)
    """Growth of the training set from one generation to the next."""
    weights: Literal["uniform", "accuracy"] = "uniform"
    """Weights of the sub-models that label: uniform, or their accuracy before training."""
    examples_per_class: int = Field(10, ge=1)
    """Without labeled data: examples per class in the first trained generation."""
    num_most_likely: int | None = Field(None, ge=1)
    """Without labeled data: the first trained generation samples from this number of examples with the highest
    probability of a class, even if another class is more likely. If not set, it samples from the examples whose most
    likely class it is.
    """


class IpetConfig(SelectionConfig):
    """Generations of sub-models after the first."""

    generations: int = Field(2, ge=1)
    """Number of generations after the first. The paper counts the first one: its 3 is 2 here."""
    teacher_fraction: float = Field(0.25, gt=0, le=1)
    """Fraction of the other sub-models that label examples for one sub-model, at least one of them."""


class GenerationConfig(SelectionConfig):
    """One generation after the first, for one sub-model. It does not depend on the generations after it."""

    generation: int = Field(ge=1)
    """Number of the generation. The first generation is 0."""
    from_zero: bool
    """True if there is no labeled data."""

    def targets(self, labels: Sequence[str], gold: Sequence[Example]) -> dict[str, int]:
        """Label -> number of examples to select: the size of the training set minus the labeled examples."""
        if self.from_zero:
            return dict.fromkeys(labels, round(self.examples_per_class * self.scale_factor ** (self.generation - 1)))
        counts = Counter(item.label for item in gold)
        return {label: round(counts[label] * self.scale_factor**self.generation) - counts[label] for label in labels}


class PseudoLabelSettings(Config):
    """How a student of self-training learns from the pseudo-labels of its teacher."""

    finetuning: TrainingConfig | None = None
    """Training on the labeled examples after that on the pseudo-labels. If not set, there is none."""
    weights: Literal["meta", "uniform"] = "meta"
    """Weights of the pseudo-labeled examples of a step: meta (how much the gradient of an example agrees with that of
    labeled examples; none if it does not), or uniform.
    """
    meta_start: float = Field(0.6, ge=0, lt=1)
    """Fraction of the steps, at the start, with uniform weights, as in the original implementation."""
    meta_batch_size: int = Field(4, ge=1)
    """Labeled examples per step whose gradient decides the weights."""
    max_examples: int | None = Field(None, ge=1)
    """Maximum number of pseudo-labeled examples, which are sampled. If not set, all unlabeled examples are used."""


class SelfTrainingConfig(PseudoLabelSettings):
    """Generations of students with adapters (LiST). Each learns from the sub-model before it."""

    generations: int = Field(2, ge=1)
    """Number of students, one after the other, of each sub-model."""
    tune: Literal["lora", "ia3", "adapter"] = "adapter"
    """Adapters of the students: lora, ia3 or adapter (bottlenecks). Their settings are those of the sub-models."""
    training: TrainingConfig
    """Length, learning rate and batch size of the training on pseudo-labels."""


class PseudoLabelConfig(PseudoLabelSettings):
    """One student of self-training. It does not depend on the students after it."""

    generation: int = Field(ge=1)
    """Number of the generation. The sub-model that is trained on labeled examples is generation 0."""


class PetSettings(TuneConfig):
    """Settings of sub-models that a recipe defines."""

    prompt: PromptConfig = PromptConfig()
    """Soft prompt, for tune: prompt."""
    training: TrainingConfig | None = None
    """Length, learning rate and batch size. Not needed for tune: none."""
    loss: LossKind = "auto"
    """cross_entropy (over the labels), hinge, vocabulary (cross-entropy over the vocabulary), decoupled (a binary
    cross-entropy per label over the vocabulary, as in ADAPET), or auto: hinge if a label word has several tokens, else
    cross_entropy.
    """
    label_conditioning: LabelConditioningConfig | None = None
    """Auxiliary loss of ADAPET on labeled examples, for masked models: predicts hidden tokens, given a label. If not
    set, it is not used.
    """
    demonstrations: SampledDemonstrationsConfig | None = None
    """Labeled examples with each text, one per label, in training and in predictions (LM-BFF). If not set, there are
    none.
    """
    mlm: MlmConfig | None = None
    """Auxiliary masked-LM loss on unlabeled data, for masked models. If not set, it is not used."""
    num_folds: int | None = Field(None, ge=2)
    """Folds of the cross-validation on the labeled examples. Each fold trains a new sub-model. If the untrained model
    predicts the held-out examples better, the sub-model stays untrained. If not set, there is no cross-validation, and
    the ensemble judges the sub-model by the untrained model.
    """

    @model_validator(mode="after")
    def _tune_fits(self) -> Self:
        if self.training is None and self.tune != "none":
            raise InputError(
                f"tune: {self.tune} needs training settings.",
                "Add some: training: {learning_rate: 0.001, epochs: 6}.",
                key="training",
            )
        if self.tune == "none" and self.num_folds:
            raise InputError(
                "tune: none trains nothing, but num_folds is set.", "Remove num_folds, or change tune.", key="num_folds"
            )
        if self.tune == "none" and self.mlm:
            raise InputError("tune: none trains nothing, but mlm is set.", "Remove mlm, or change tune.", key="mlm")
        if self.tune == "none" and self.label_conditioning:
            raise InputError(
                "tune: none trains nothing, but label_conditioning is set.",
                "Remove label_conditioning, or change tune.",
                key="label_conditioning",
            )
        if self.tune == "prompt" and self.mlm:
            raise InputError("tune: prompt has no auxiliary loss.", "Remove mlm, or change tune.", key="mlm")
        if self.tune == "prompt" and self.prompt.trains_more:
            raise InputError(
                "tune: prompt trains neither adapters nor a linear head.",
                "Remove prompt.lora and prompt.head, or change tune.",
                key="prompt",
            )
        return self


class PetConfig(ClozeConfig, PetSettings):
    """One sub-model."""

    growth: GenerationConfig | None = None
    """A generation of iPET after the first. If not set, only labeled examples are used."""
    student: PseudoLabelConfig | None = None
    """A student of self-training. If not set, it is a sub-model that learns from labeled examples, or of iPET."""
    label_unlabeled: bool = True
    """If true, also labels the unlabeled data, as members of the ensemble do."""
    seed: int = 0
    """Seed of the order of examples, dropout, new weights and samples."""
    name: str = ""
    """Name of its prompt in the result of batched training. Empty if it is trained on its own."""

    @model_validator(mode="after")
    def _parts_fit(self) -> PetConfig:
        if self.tune == "none" and self.training is not None:
            raise InputError("tune: none trains nothing, but training is set.", "Remove training.", key="training")
        if self.tune == "none" and self.growth:
            raise InputError("tune: none trains nothing, but growth is set.", "Remove growth.", key="growth")
        return self
