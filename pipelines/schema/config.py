"""The recipe as one model: its fields, and queries over several sections."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from pipelines.schema.sections import prompts
from pipelines.schema.sections.ensemble import (
    BaselineSection,
    DistillSection,
    EnsembleSection,
    LearningCurveSection,
    Member,
    PetMember,
    PetSection,
    PrimingSection,
    ProbeMember,
    SearchSection,
    ShardsSection,
)
from pipelines.schema.sections.prompts import PptSection, PromptsSection, PromptTaskConfig, token_level_tasks
from pipelines.schema.sections.resources import ResourcesSection, apply_default_resources
from stages.common.config import Config, Name
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.splits.config import DataConfig


class ScoreRecipe(BaseModel, frozen=True, extra="ignore"):
    """What `score` reads of a recipe: the task, and the backbone's section if there is one."""

    task: Task
    """Labels, patterns and label words."""
    backbone: dict[str, object] = Field({})
    """The backbone's section."""


class PipelineConfig(Config):
    """A recipe: one complete pipeline."""

    name: Name
    """Name of the recipe, and of its report."""
    seed: int = 0
    """Every random choice follows from it."""
    task: Task
    """The task: labels, patterns, label words."""
    data: DataConfig
    """Where the texts come from."""
    backbone: BackboneConfig
    """The pretrained language model."""
    student: StudentConfig
    """The encoder of the final classifier."""
    zero_shot: bool = True
    """Also measure every pattern without training."""
    priming: PrimingSection | None = None
    """Also measure patterns with demonstrations; none: left out."""
    verbalizer_search: SearchSection | None = None
    """Finds label words; none: the task has them."""
    ppt: PptSection | None = None
    """Prompt pretraining; none: left out."""
    pet: PetSection
    """Sub-models."""
    members: dict[Name, Member] = Field({})
    """Further members of the ensemble."""
    ensemble: EnsembleSection = EnsembleSection()
    """The ensemble."""
    unlabeled_shards: ShardsSection | None = None
    """A pile too large for memory; none: left out."""
    distill: DistillSection
    """The student."""
    baseline: BaselineSection | None = None
    """The student on labels alone; none: left out."""
    learning_curve: LearningCurveSection | None = None
    """Accuracy against labels; none: left out."""
    prompts: PromptsSection | None = None
    """Prompt tuning; none: left out."""
    resources: ResourcesSection = ResourcesSection()
    """What steps with a language model get."""

    @model_validator(mode="before")
    @classmethod
    def _resources_are_handed_down(cls, values: Any) -> Any:
        return apply_default_resources(values)

    @property
    def has_labels(self) -> bool:
        """Whether there are labelled examples to learn from."""
        return self.data.train is not None or self.data.shots > 0

    @property
    def pet_sections(self) -> dict[str, PetSection]:
        """Dotted place -> section of sub-models: the recipe's own, and those of members on other backbones."""
        others = {f"members.{name}": item for name, item in self.members.items() if isinstance(item, PetMember)}
        return {"pet": self.pet, **others}

    def patterns_of(self, section: PetSection) -> tuple[str, ...]:
        """Names of the patterns that a section trains."""
        return section.patterns or self.hard_patterns

    @property
    def hard_patterns(self) -> tuple[str, ...]:
        """Names of the task's patterns without soft blocks: what can be measured and trained without a prompt."""
        return tuple(name for name in self.task.patterns if not self.task.pattern(name).has_soft_blocks)

    @property
    def backbones(self) -> dict[str, BackboneConfig]:
        """Dotted place -> language model, of everything that has one."""
        members = ((name, item) for name, item in self.members.items() if isinstance(item, PetMember))
        return {"backbone": self.backbone, **{f"members.{name}.backbone": item.backbone for name, item in members}}

    def num_prompt_vectors(self, place: str) -> int:
        """Vectors of the longest soft prompt before the texts of the backbone at a dotted place; 0 for encoders."""
        found = [self.ppt.num_virtual_tokens] if self.ppt and place == "backbone" else []
        methods: list[PromptConfig] = [*self.prompts.methods.values()] if self.prompts and place == "backbone" else []
        section = self.pet_sections.get("pet" if place == "backbone" else place.removesuffix(".backbone"))
        methods += [section.prompt] if section and section.tune == "prompt" else []
        return max([*found, *(method.num_virtual_tokens for method in methods if method.init != "ppt")], default=0)

    @property
    def encoders(self) -> dict[str, EncoderConfig]:
        """Dotted place -> encoder, of everything that has one."""
        members = ((name, item) for name, item in self.members.items() if isinstance(item, ProbeMember))
        return {"student": self.student, **{f"members.{name}.encoder": item.encoder for name, item in members}}

    def prompt_task(self, item: PromptTaskConfig) -> tuple[Task, DataConfig]:
        """The task and data of a downstream task."""
        if item.task is None or item.data is None:
            return self.task, self.data
        return item.task, item.data

    def pretrained_for(self, item: PromptTaskConfig) -> int:
        """Which of `ppt.formats` a downstream task's prompt starts from, where it starts from ppt.

        Raises:
            InputError: none of them is the one.
        """
        assert self.ppt is not None
        kind = prompts.select_format(self.prompt_task(item)[0], item.pattern, self.ppt.formats, item.format)
        return self.ppt.formats.index(kind)

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
        found = {f"{place}.asset": model.asset for place, model in (self.backbones | self.encoders).items()}
        sources = {
            f"{place}.{name}": item for _, data, place in self.datasets.values() for name, item in data.sources.items()
        }
        for task in token_level_tasks(self.prompts):
            sources |= {f"{task.place}.data.{name}": item for name, item in task.data.sources.items()}
        if self.ppt:
            sources["ppt.corpus.source"] = self.ppt.corpus.source
        if self.ppt and "single" in self.ppt.formats and self.ppt.single.classifier:
            found["ppt.single.classifier"] = self.ppt.single.classifier
        return found | {f"{place}.asset": i.asset for place, i in sources.items() if not i.asset.startswith("hf:")}
