"""The sections of a recipe: one pydantic model each. Every field has a description; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from stages.ensembles.generations import IpetConfig
from stages.models.backbones import BackboneConfig
from stages.models.contrast import ContrastConfig
from stages.models.encoders import EncoderConfig
from stages.models.submodels import LoraConfig, Tune
from stages.patterns.cloze import Loss
from stages.patterns.mlm import MlmConfig
from stages.prompts.methods import PromptConfig
from stages.prompts.start import StartConfig
from stages.soft_labels import EnsembleConfig
from stages.splits import DataConfig
from stages.tasks import Name, Task
from stages.texts.corpora import CorpusConfig
from stages.training.loop import LoopConfig
from stages.verbalizer_search import SearchConfig


class Section(BaseModel, frozen=True, extra="forbid"):
    """A section of a recipe. `cpus` and `gpus` are what each of its steps gets; threads follow from `cpus`."""

    cpus: float = Field(1.0, gt=0, description="Processor cores a step; as many threads compute.")
    gpus: float = Field(0.0, ge=0, description="GPUs a step.")


class PptSection(Section, frozen=True):
    """Prompt pretraining on raw text."""

    corpus: CorpusConfig = Field(description="The raw text.")
    num_vectors: int = Field(16, ge=1, description="Vectors of the prompt.")
    start: StartConfig = Field(StartConfig(), description="Where the prompt starts.")
    num_held_out: int = Field(120, ge=3, description="Examples kept aside to measure what was learnt.")
    loop: LoopConfig = Field(description="Length and rates of the training.")


class PetSection(Section, frozen=True):
    """Sub-models: one for each pattern and seed."""

    patterns: tuple[Name, ...] | None = Field(None, min_length=1, description="Patterns to train; none: all.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; every pattern is trained with each.")
    tune: Tune = Field("lora", description="What is trained: full, lora or none.")
    lora: LoraConfig = Field(LoraConfig(), description="Adapters, for tune: lora.")
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; not needed for tune: none.")
    loss: Loss = Field("auto", description="cross_entropy, hinge, or auto: hinge where a word has several tokens.")
    mlm: MlmConfig | None = Field(None, description="The auxiliary loss on unlabelled text; masked models only.")
    ipet: IpetConfig | None = Field(
        None, description="Further generations that teach each other; none: one generation."
    )

    @model_validator(mode="after")
    def _loop_fits(self) -> PetSection:
        if self.loop is None and self.tune != "none":
            raise ValueError(f"tune: {self.tune} needs a loop. Add one: loop: {{learning_rate: 0.001, epochs: 6}}.")
        if self.tune == "none" and (self.mlm or self.ipet):
            raise ValueError("tune: none takes neither mlm nor ipet, which train. Mend tune, or take them out.")
        return self


class PetMember(PetSection, frozen=True):
    """Sub-models on another backbone, members of the same ensemble."""

    kind: Literal["pet"] = Field(description="pet: sub-models.")
    backbone: BackboneConfig = Field(description="Their language model.")


class ProbeMember(Section, frozen=True):
    """A sentence encoder, frozen or tuned on pairs, with logistic regression: a member of the ensemble."""

    kind: Literal["probe"] = Field(description="probe: logistic regression on sentence embeddings.")
    encoder: EncoderConfig = Field(description="The sentence encoder.")
    strength: float = Field(1.0, gt=0, description="C of scikit-learn's LogisticRegression: higher fits closer.")
    contrast: ContrastConfig | None = Field(
        None, description="Tunes the encoder on pairs of labelled texts first (SetFit); none: it is frozen."
    )


Member = Annotated[PetMember | ProbeMember, Field(discriminator="kind")]


class SearchSection(Section, SearchConfig, frozen=True):
    """Label words found by PETAL, for every pattern, where the task has none."""


class PrimingSection(Section, frozen=True):
    """Patterns measured with demonstrations before each text, and nothing trained."""

    shots: int = Field(2, ge=1, description="Demonstrations a class.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds of their choice and order.")


class EnsembleSection(EnsembleConfig, frozen=True):
    """The ensemble of all members, which labels the unlabelled pile."""

    min_members: int | None = Field(
        None, ge=1, description="Members that are enough if others fail; none: every one is needed."
    )

    @property
    def mixing(self) -> EnsembleConfig:
        """What decides the result."""
        return EnsembleConfig(**{name: getattr(self, name) for name in EnsembleConfig.model_fields})


class DistillSection(Section, frozen=True):
    """The student, trained on soft labels."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One student for each seed.")
    temperature: float = Field(2.0, gt=0, description="Softens the teacher's and the student's distribution.")
    gold_share: float = Field(0.0, ge=0, lt=1, description="Weight of the labelled examples in the loss.")
    keep_share: float = Field(1.0, gt=0, le=1, description="Share of each predicted label's texts kept, surest first.")
    min_confidence: float = Field(0.0, ge=0, lt=1, description="Texts whose top probability is lower are left out.")
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none for student.tune: head.")


class BaselineSection(Section, frozen=True):
    """The student's encoder, trained on the labelled examples alone."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One baseline for each seed.")
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none for student.tune: head.")


class PromptTaskConfig(BaseModel, frozen=True, extra="forbid"):
    """A downstream task of prompt tuning. Without task and data it is the recipe's own."""

    pattern: str = Field(description="Name of the hard pattern behind the prompt.")
    task: Task | None = Field(None, description="Another task; none: the recipe's own.")
    data: DataConfig | None = Field(None, description="Data of that task.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> PromptTaskConfig:
        if (self.task is None) != (self.data is None):
            raise ValueError("task and data belong together. Give both, or neither for the recipe's own task.")
        return self


class PromptMethod(PromptConfig, frozen=True):
    """A method of soft prompting, with a training of its own if it wants one."""

    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none: those of the section.")

    @property
    def prompt(self) -> PromptConfig:
        """What decides the prompt itself."""
        return PromptConfig(**{name: getattr(self, name) for name in PromptConfig.model_fields})


class PromptsSection(Section, frozen=True):
    """Soft prompts for downstream tasks over the frozen backbone: every task, method and seed is a step."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One prompt for each seed.")
    methods: dict[Name, PromptMethod] = Field(min_length=1, description="Name of a row of the report -> its method.")
    tasks: tuple[PromptTaskConfig, ...] = Field(min_length=1, description="Downstream tasks.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
