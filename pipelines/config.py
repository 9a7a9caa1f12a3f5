"""What a recipe may say: one pydantic model a section. Every field has a description; unknown keys are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from stages.backbones import BackboneConfig
from stages.classifier import StudentConfig
from stages.corpora import CorpusConfig
from stages.errors import InputError
from stages.loop import LoopConfig
from stages.prompts.start import StartConfig
from stages.splits import DataConfig
from stages.submodels import LoraConfig, Tune
from stages.tasks import Name, Task


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

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; every pattern is trained with each.")
    tune: Tune = Field("lora", description="What is trained: full, lora or none.")
    lora: LoraConfig = Field(LoraConfig(), description="Adapters, for tune: lora.")
    loop: LoopConfig = Field(description="Length and rates of the training.")


class EnsembleSection(Section, frozen=True):
    """The ensemble of all sub-models, which labels the unlabelled pile."""

    min_members: int | None = Field(
        None, ge=1, description="Sub-models that are enough if others fail; none: every one is needed."
    )
    weights: Literal["uniform", "accuracy"] = Field("uniform", description="Weights of the sub-models.")


class DistillSection(Section, frozen=True):
    """The student, trained on soft labels."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One student for each seed.")
    temperature: float = Field(2.0, gt=0, description="Softens the teacher's and the student's distribution.")
    gold_share: float = Field(0.0, ge=0, lt=1, description="Weight of the labelled examples in the loss.")
    loop: LoopConfig = Field(description="Length and rates of the training.")


class BaselineSection(Section, frozen=True):
    """The student's encoder, trained on the labelled examples alone."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One baseline for each seed.")
    loop: LoopConfig = Field(description="Length and rates of the training.")


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


class PromptsSection(Section, frozen=True):
    """Soft prompts for downstream tasks over the frozen backbone: every task, method and seed is a step."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One prompt for each seed.")
    num_vectors: int = Field(16, ge=1, description="Vectors of prompts that do not start from PPT.")
    methods: dict[Name, StartConfig | Literal["ppt"]] = Field(
        min_length=1, description="Name of a method -> where its prompts start: ppt, or a kind of random start."
    )
    tasks: tuple[PromptTaskConfig, ...] = Field(min_length=1, description="Downstream tasks.")
    loop: LoopConfig = Field(description="Length and rates of the training.")


class PipelineConfig(BaseModel, frozen=True, extra="forbid"):
    """A recipe: one complete pipeline."""

    name: Name = Field(description="Name of the recipe, and of its report.")
    seed: int = Field(0, description="Every random choice follows from it.")
    task: Task = Field(description="The task: labels, patterns, label words.")
    data: DataConfig = Field(description="Where the texts come from.")
    backbone: BackboneConfig = Field(description="The pretrained language model.")
    student: StudentConfig = Field(description="The encoder of the final classifier.")
    zero_shot: bool = Field(True, description="Also measure every pattern without training.")
    ppt: PptSection | None = Field(None, description="Prompt pretraining; none: left out.")
    pet: PetSection = Field(description="Sub-models.")
    ensemble: EnsembleSection = Field(EnsembleSection(), description="The ensemble.")
    distill: DistillSection = Field(description="The student.")
    baseline: BaselineSection | None = Field(None, description="The student on labels alone; none: left out.")
    prompts: PromptsSection | None = Field(None, description="Prompt tuning; none: left out.")

    @model_validator(mode="after")
    def _sections_fit(self) -> PipelineConfig:
        if len(self.task.fields) > 2:
            raise ValueError(
                f"the patterns take the fields {list(self.task.fields)}, but a student reads two at the most. "
                "Join fields in the data, or use fewer."
            )
        if self.prompts is None:
            return self
        if self.ppt is None and "ppt" in self.prompts.methods.values():
            raise InputError(
                "a method starts from ppt, but there is no ppt section.", "Add one: ppt: {...}.", key="prompts.methods"
            )
        names = [self.prompt_task(item)[0].name for item in self.prompts.tasks]
        if len(set(names)) < len(names):
            raise InputError(f"two tasks have the same name: {names}.", "Give each its own.", key="prompts.tasks")
        for number, item in enumerate(self.prompts.tasks):
            known = self.prompt_task(item)[0].patterns
            if item.pattern not in known:
                raise InputError(
                    f"there is no pattern {item.pattern!r}.",
                    f"Take one of: {', '.join(known)}.",
                    key=f"prompts.tasks.{number}.pattern",
                )
        return self

    def prompt_task(self, item: PromptTaskConfig) -> tuple[Task, DataConfig]:
        """The task and data of a downstream task."""
        if item.task is None or item.data is None:
            return self.task, self.data
        return item.task, item.data

    @property
    def datasets(self) -> dict[str, tuple[Task, DataConfig, str]]:
        """Task name -> task, data and the dotted place of the data in the recipe."""
        found = {self.task.name: (self.task, self.data, "data")}
        for number, item in enumerate(self.prompts.tasks if self.prompts else ()):
            if item.task is not None and item.data is not None:
                found[item.task.name] = (item.task, item.data, f"prompts.tasks.{number}.data")
        return found

    @property
    def assets(self) -> dict[str, str]:
        """Dotted place in the recipe -> reference, of everything that has to be fetched.

        Datasets of the hub are left out: the datasets library fetches them when they are read.
        """
        found = {"backbone.asset": self.backbone.asset, "student.asset": self.student.asset}
        sources = {
            f"{place}.{name}": item for _, data, place in self.datasets.values() for name, item in data.sources.items()
        }
        if self.ppt:
            sources["ppt.corpus.source"] = self.ppt.corpus.source
        read_by_us = {place: item.asset for place, item in sources.items() if not item.asset.startswith("hf:")}
        return found | {f"{place}.asset": ref for place, ref in read_by_us.items()}
