"""Sections for the members of the ensemble, the ensemble, the students that it teaches, and the learning curve."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section, StreamSection, check_batched_training, check_strategy
from stages.common.config import Config, Name
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, Tune
from stages.common.models.cloze.config import LossKind, MlmConfig
from stages.common.models.encoders.config import EncoderConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.pet.config import IpetConfig
from stages.pet.verbalizer_search.config import SearchConfig
from stages.probe.config import ContrastiveConfig
from stages.soft_labels.config import EnsembleConfig
from stages.soft_labels.sharded.config import ShardsConfig

CurveMethod = Literal["baseline", "ensemble", "student"]
"""What the curve of accuracy against labels measures."""


class LearningCurveSection(Config):
    """Accuracy against the number of labelled texts. Its steps get what those of the whole recipe get."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2)
    """Labelled examples a class, a point of the curve for each number."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Each chooses other texts; smaller sets lie in the larger ones."""
    methods: tuple[CurveMethod, ...] = Field(("baseline", "ensemble"), min_length=1)
    """baseline, ensemble (a sub-model for each pattern), student; one run of each a number and seed."""
    patterns: tuple[Name, ...] | None = Field(None, min_length=1)
    """Patterns of the ensemble; none: those of pet."""
    members: tuple[Name, ...] = ()
    """Of `members`, those that join the ensemble here too."""
    ipet: bool = False
    """Whether the ensemble is that of the last generation of pet.ipet."""


class PetSection(Section):
    """Sub-models: one for each pattern and seed."""

    patterns: tuple[Name, ...] | None = Field(None, min_length=1)
    """Patterns to train; none: all."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds; every pattern is trained with each."""
    tune: Tune = "lora"
    """What is trained: full, lora, prompt or none."""
    lora: LoraConfig = LoraConfig()
    """Adapters, for tune: lora."""
    prompt: PromptConfig = PromptConfig()
    """Soft prompt, for tune: prompt."""
    batched_training: bool = False
    """tune: prompt: train all sub-models of the first generation in one batch, in one step."""
    training: TrainingConfig | None = None
    """Length and rates of the training; not needed for tune: none."""
    loss: LossKind = "auto"
    """cross_entropy, hinge, or auto: hinge where a word has several tokens."""
    mlm: MlmConfig | None = None
    """The auxiliary loss on unlabelled text; masked models only."""
    ipet: IpetConfig | None = None
    """Further generations that teach each other; none: one generation."""

    @model_validator(mode="after")
    def _loop_fits(self) -> PetSection:
        if self.training is None and self.tune != "none":
            raise ValueError(f"tune: {self.tune} needs a loop. Add one: training: {{learning_rate: 0.001, epochs: 6}}.")
        if self.tune == "prompt" and (self.mlm or self.prompt.trains_more):
            raise ValueError("tune: prompt takes no mlm, prompt.lora or prompt.head. Take them out, or mend tune.")
        if self.batched_training:
            check_batched_training(self.tune == "prompt" and not self.prompt.hard_prompt_steps, self.training)
        if self.tune == "none" and (self.mlm or self.ipet):
            raise ValueError("tune: none takes neither mlm nor ipet, which train. Mend tune, or take them out.")
        check_strategy(self, trains_all=self.tune == "full", together=self.batched_training)
        return self


class PetMember(PetSection):
    """Sub-models on another backbone, members of the same ensemble."""

    kind: Literal["pet"]
    """pet: sub-models."""
    backbone: BackboneConfig
    """Their language model."""


class ProbeMember(Section):
    """A sentence encoder, frozen or tuned on pairs, with logistic regression: a member of the ensemble."""

    kind: Literal["probe"]
    """probe: logistic regression on sentence embeddings."""
    encoder: EncoderConfig
    """The sentence encoder."""
    regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression: higher fits closer."""
    contrastive: ContrastiveConfig | None = None
    """Tunes the encoder on pairs of labelled texts first (SetFit); none: it is frozen."""

    @model_validator(mode="after")
    def _spreads_nothing(self) -> ProbeMember:
        check_strategy(self, trains_all=True)
        return self


Member = Annotated[PetMember | ProbeMember, Field(discriminator="kind")]


class SearchSection(Section, SearchConfig):
    """Label words found by PETAL, for every pattern, where the task has none."""


class PrimingSection(Section):
    """Patterns measured with demonstrations before each text, and nothing trained."""

    shots: int = Field(2, ge=1)
    """Demonstrations a class."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of their choice and order."""


class EnsembleSection(EnsembleConfig):
    """The ensemble of all members, which labels the unlabelled pile."""

    min_members: int | None = Field(None, ge=1)
    """Members that are enough if others fail; none: every one is needed."""

    @property
    def mixing(self) -> EnsembleConfig:
        """What decides the result."""
        return EnsembleConfig(**{name: getattr(self, name) for name in EnsembleConfig.model_fields})


class ShardsSection(StreamSection, ShardsConfig):
    """A pile too large for memory, which the ensemble labels; students learn from it in the place of the other pile."""

    max_student_examples: int = Field(100_000, ge=1)
    """Texts that a student learns from at the most, drawn among those that distill keeps."""

    @property
    def reading(self) -> ShardsConfig:
        """What decides the result."""
        return ShardsConfig(source=self.source, batch_size=self.batch_size)


class DistillSection(Section):
    """The student, trained on soft labels."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One student for each seed."""
    temperature: float = Field(2.0, gt=0)
    """Softens the teacher's and the student's distribution."""
    gold_weight: float = Field(0.0, ge=0, lt=1)
    """Weight of the labelled examples in the loss."""
    keep_fraction: float = Field(1.0, gt=0, le=1)
    """Share of each predicted label's texts kept, surest first."""
    min_confidence: float = Field(0.0, ge=0, lt=1)
    """Texts whose top probability is lower are left out."""
    training: TrainingConfig | None = None
    """Length and rates of the training; none for student.tune: head."""

    @model_validator(mode="after")
    def _spreads_nothing(self) -> DistillSection:
        check_strategy(self, trains_all=True)
        return self


class BaselineSection(Section):
    """The student's encoder, trained on the labelled examples alone."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One baseline for each seed."""
    training: TrainingConfig | None = None
    """Length and rates of the training; none for student.tune: head."""

    @model_validator(mode="after")
    def _spreads_nothing(self) -> BaselineSection:
        check_strategy(self, trains_all=True)
        return self
