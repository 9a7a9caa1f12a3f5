"""Sections for the members of the ensemble, the ensemble, the students that it teaches, and the learning curve."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipelines.schema.sections.resources import (
    FullTrainingSection,
    Section,
    StreamSection,
    check_batched_training,
    check_partitions_nothing_trained,
)
from stages.baseline.config import BaselineSettings
from stages.common.config import Config, Name
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.tfidf_config import TfidfSettings
from stages.common.training.config import TrainingConfig
from stages.common.training.student_config import StudentSettings
from stages.distillation.config import DistillationSettings
from stages.in_context.config import DemonstrationConfig
from stages.llm.config import LlmSettings
from stages.nli.config import NliSettings
from stages.pet.config import IpetConfig, PetSettings, SelfTrainingConfig
from stages.pet.pattern_search.config import PatternSearchSettings
from stages.pet.verbalizer_search.config import SearchConfig
from stages.probe.config import ProbeSettings
from stages.soft_labels.config import EnsembleConfig
from stages.soft_labels.sharded.config import ShardsConfig
from stages.word_vectors.config import WordVectorSettings

CurveMethod = Literal["baseline", "ensemble", "student"]
"""Methods that the learning curve can compare."""
StudentStage = Literal["distill", "baseline"]
"""Stages that train the encoder of a student."""


class LearningCurveSection(Config):
    """Accuracy against the number of labeled examples. Its steps have the resources of the steps that they repeat."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2)
    """Labeled examples per class, one point of the curve per number."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of the samples of labeled examples. With one seed, a smaller sample is part of a larger one."""
    methods: tuple[CurveMethod, ...] = Field(("baseline", "ensemble"), min_length=1)
    """baseline, ensemble (one sub-model per pattern), student. Each runs once per number and seed. baseline and student
    use the first of `students`.
    """
    patterns: tuple[Name, ...] | None = Field(None, min_length=1)
    """Patterns of the ensemble. If not set, the patterns of pet."""
    members: tuple[Name, ...] = ()
    """Names of `members` that are also part of this ensemble."""
    ipet: bool = False
    """If true, the ensemble is the last generation of pet.ipet or pet.self_training; if false, the first."""


class PetSection(Section, PetSettings):
    """Sub-models: one per pattern and seed."""

    patterns: tuple[Name, ...] | None = Field(None, min_length=1)
    """Names of the patterns to train. If not set, all patterns without soft blocks."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds. Each pattern is trained once per seed."""
    batched_training: bool = False
    """For tune: prompt. If true, one step trains all sub-models of the first generation in the same batches."""
    ipet: IpetConfig | None = None
    """Generations of sub-models that label data for each other. If not set, there is one generation."""
    self_training: SelfTrainingConfig | None = None
    """Students with adapters, each of which learns from the sub-model before it (LiST). If not set, there are none."""

    @property
    def num_generations(self) -> int:
        """Number of generations after the first."""
        source = self.ipet or self.self_training
        return source.generations if source else 0

    @model_validator(mode="after")
    def _generations_are_trained(self) -> Self:
        for key in ("ipet", "self_training"):
            if self.tune == "none" and getattr(self, key):
                raise InputError(
                    f"tune: none trains nothing, but {key} is set.", f"Remove {key}, or change tune.", key=key
                )
        if self.ipet and self.self_training:
            raise InputError(
                "ipet and self_training both define the generations after the first.",
                "Remove one of them.",
                key="self_training",
            )
        return self

    @model_validator(mode="after")
    def _one_worker_weights_pseudo_labels(self) -> Self:
        shares_work = self.strategy != "single" or self.resources.max_workers > 1
        if self.self_training and self.self_training.weights == "meta" and shares_work:
            raise InputError(
                "the gradient that weights pseudo-labels is computed by one worker.",
                "Remove workers and strategy, or set self_training.weights: uniform.",
                key="self_training.weights",
            )
        return self

    @model_validator(mode="after")
    def _batched_training_has_one_loss(self) -> Self:
        for key in ("label_conditioning", "demonstrations"):
            if self.batched_training and getattr(self, key):
                raise InputError(
                    f"batched_training shares a pass of labeled texts only, without {key}.",
                    f"Remove {key} or batched_training.",
                    key=key,
                )
        return self

    @model_validator(mode="after")
    def _strategy_fits_training(self) -> Self:
        students = self.self_training
        if self.tune not in ("lora", "prompt", "none") or (students and students.tune != "lora"):
            check_partitions_nothing_trained(self.strategy)
        if self.batched_training:
            trains_only_prompts = self.tune == "prompt" and self.prompt.can_be_batched
            check_batched_training(self, trains_only_prompts=trains_only_prompts, trainings=[self.training])
        return self


class PetMember(PetSection):
    """Sub-models on another backbone, which are members of the same ensemble."""

    kind: Literal["pet"]
    """pet: sub-models."""
    backbone: BackboneConfig
    """The language model of these sub-models."""


class ProbeMember(FullTrainingSection, ProbeSettings):
    """A probe: logistic regression on sentence embeddings, as a member of the ensemble."""

    kind: Literal["probe"]
    """probe: logistic regression on sentence embeddings."""

    @model_validator(mode="after")
    def _workers_do_not_split_pairs(self) -> Self:
        if self.contrastive and self.resources.max_workers > 1:
            raise InputError(
                "contrastive tuning compares all texts of a batch, so one worker computes it.",
                "Remove workers and strategy.",
                key="workers",
            )
        return self


class FinetunedMember(FullTrainingSection, BaselineSettings):
    """An encoder that is trained on the labeled data, as a member of the ensemble."""

    kind: Literal["finetuned"]
    """finetuned: an encoder, trained on the labeled data."""
    encoder: EncoderConfig
    """The encoder."""
    training: TrainingConfig
    """Length, learning rate and batch size."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. Each fold trains a new encoder."""


class TfidfMember(Section, TfidfSettings):
    """Logistic regression or naive Bayes on TF-IDF features, as a member of the ensemble."""

    kind: Literal["tfidf"]
    """tfidf: logistic regression or naive Bayes on TF-IDF features."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples."""


class WordVectorMember(Section, WordVectorSettings):
    """Logistic regression on averaged word vectors, as a member of the ensemble."""

    kind: Literal["word_vectors"]
    """word_vectors: logistic regression on the mean of the input embeddings of a model."""


class NliMember(Section, NliSettings):
    """A model of natural language inference, which labels texts without training, as a member of the ensemble."""

    kind: Literal["nli"]
    """nli: a model of natural language inference; the label whose hypothesis follows from the text."""


class LlmMember(Section, LlmSettings):
    """A language model at an OpenAI-compatible endpoint, as a member of the ensemble."""

    kind: Literal["llm"]
    """llm: a language model at an OpenAI-compatible endpoint."""


Member = Annotated[
    PetMember | ProbeMember | FinetunedMember | TfidfMember | WordVectorMember | NliMember | LlmMember,
    Field(discriminator="kind"),
]


class SearchSection(Section, SearchConfig):
    """Search for label words with PETAL, for every pattern, if the task has no verbalizer."""


class PatternSearchSection(Section, PatternSearchSettings):
    """Search for patterns. Each result is judged by cross-validation on the labeled examples."""

    patterns: tuple[Name, ...] | None = Field(None, min_length=1)
    """Names of the patterns to start from. The results replace them. If not set, all patterns without soft blocks.
    Patterns with the same text and label words get the best result, the second best, and so on.
    """


class PrimingSection(Section, DemonstrationConfig):
    """Patterns with labeled demonstrations before each text. Nothing is trained."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of the choice and order of demonstrations."""


class EnsembleSection(EnsembleConfig):
    """The ensemble of all members, which labels the unlabeled data."""

    min_members: int | None = Field(None, ge=1)
    """Number of members that are enough if others fail. If not set, all members are required."""


class ShardsSection(StreamSection, ShardsConfig):
    """Unlabeled data that is too large for memory. The ensemble labels it, and students learn from it instead of the
    unlabeled set.
    """

    max_student_examples: int = Field(100_000, ge=1)
    """Maximum number of examples for a student, sampled from the examples that distill keeps."""


class EncoderStudent(StudentConfig):
    """A student with an encoder, and training settings of its own."""

    kind: Literal["encoder"] = "encoder"
    """encoder: a pretrained encoder with a linear head."""
    teacher: Name | None = None
    """Another student that teaches this one, together with the ensemble. If not set, the ensemble alone."""
    training: TrainingConfig | None = None
    """Training on the soft labels. If not set, distill.training."""
    baseline_training: TrainingConfig | None = None
    """Training of its baseline on the labeled data. If not set, baseline.training."""

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        for key in ("training", "baseline_training"):
            if self.tune == "head" and getattr(self, key) is not None:
                raise InputError(
                    "tune: head fits a linear head, without training steps.",
                    f"Remove {key}, or set tune: full.",
                    key=key,
                )
        return self

    def training_in(self, stage: StudentStage, section: StudentSettings) -> TrainingConfig | None:
        """Returns its training settings in a stage: its own, else those of the section; None for tune: head."""
        own = self.training if stage == "distill" else self.baseline_training
        return own or (section.training if self.tune == "full" else None)


class TfidfStudent(TfidfSettings):
    """A student that counts words: small and fast, without a pretrained model."""

    kind: Literal["tfidf"]
    """tfidf: logistic regression or naive Bayes on TF-IDF features. Nothing in it is random, so it has one seed."""
    teacher: Name | None = None
    """Another student that teaches this one, together with the ensemble. If not set, the ensemble alone."""


def _kind_of(student: Any) -> str:
    """Returns the kind of a student; `encoder` is the default."""
    if isinstance(student, dict):
        return str(student.get("kind", "encoder"))
    return str(getattr(student, "kind", "encoder"))


Student = Annotated[
    Annotated[EncoderStudent, Tag("encoder")] | Annotated[TfidfStudent, Tag("tfidf")], Discriminator(_kind_of)
]


class DistillSection(FullTrainingSection, DistillationSettings):
    """The students, trained on soft labels. `training` is for all students with an encoder but without their own."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds. Each student is trained once per seed."""


class BaselineSection(FullTrainingSection, StudentSettings, BaselineSettings):
    """The students, trained on the labeled examples only. `training` is for all encoders without their own
    (`baseline_training` of a student).
    """

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds. The baseline of each student is trained once per seed. `num_folds` applies to the first seed."""
