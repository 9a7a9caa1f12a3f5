"""The recipe as one model: its fields, and queries over several sections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field, model_validator

from pipelines.schema.locations import errors_located_in
from pipelines.schema.sections.chain_of_thought import ChainOfThoughtSection
from pipelines.schema.sections.ensemble import (
    BaselineSection,
    DistillSection,
    EncoderStudent,
    EnsembleSection,
    FinetunedMember,
    LearningCurveSection,
    LlmMember,
    Member,
    NliMember,
    PatternSearchSection,
    PetMember,
    PetSection,
    PrimingSection,
    ProbeMember,
    SearchSection,
    ShardsSection,
    Student,
)
from pipelines.schema.sections.instructions import InstructionSection, InstructionTask, PatternSummarySection
from pipelines.schema.sections.knowledge_probing import KnowledgeProbingSection
from pipelines.schema.sections.prompts import (
    DownstreamTask,
    PptSection,
    PromptsSection,
    PromptTaskConfig,
    select_format,
    select_format_without_match,
)
from pipelines.schema.sections.resources import ResourcesSection, apply_default_resources
from stages.common.config import ClassWeights, Config, LabelBias, Name, asset_refs
from stages.common.data.config import Source
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import EncoderConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining.formats import as_choice
from stages.splits.config import DataConfig


class ScoreRecipe(BaseModel, frozen=True, extra="ignore"):
    """The part of a recipe that `score` reads: the task and, if present, its data and the section of the backbone."""

    task: Task
    """Labels, patterns and label words."""
    backbone: BackboneConfig | None = None
    """The backbone."""
    data: DataConfig | None = None
    """The data, whose columns the rows to score have too."""

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Field of the task -> its columns in the files of the recipe."""
        return field_columns(self.data, self.task.fields) if self.data else {}


class PipelineConfig(Config):
    """A recipe, which defines one complete pipeline."""

    name: Name
    """Name of the recipe and of its report."""
    seed: int = 0
    """Seed from which the seeds of all steps are derived."""
    task: Task
    """The task: labels, patterns, label words."""
    data: DataConfig
    """Sources and sizes of the sets."""
    class_weights: ClassWeights = "none"
    """How much the labeled examples of each label count when classifiers are trained: none (each example the same), or
    balanced (each label the same, as in scikit-learn, for labels that are rare but matter). Language models of PET and
    soft prompts do not use it.
    """
    label_bias: LabelBias = "none"
    """What is added to the logits of each label of a classifier: none (the most probable label is predicted), macro_f1
    (a bias that maximizes macro-F1 on held-out labeled examples, so that rare labels are predicted more often), or, in
    multi-label classification, frequencies (each label is predicted as often as the held-out examples have it).
    Students have the bias of the ensemble. A baseline has one if it is cross-validated.
    """
    backbone: BackboneConfig | None = None
    """The pretrained language model. If not set, there are no patterns, sub-models and prompts."""
    students: dict[Name, Student] = Field(min_length=1)
    """Final classifiers of several sizes, by name. Each learns from the soft labels. The report names the one to use.
    """
    zero_shot: bool = True
    """If true, also tests each pattern without training, if there is a backbone."""
    priming: PrimingSection | None = None
    """Also tests each pattern with demonstrations. If not set, it does not."""
    chain_of_thought: ChainOfThoughtSection | None = None
    """Also tests rationales that a causal model writes. If not set, it does not."""
    pattern_summary: PatternSummarySection | None = None
    """Summaries over the patterns without training: mean, best, ensemble. If not set, there are none."""
    instruction_tuning: InstructionSection | None = None
    """Tunes the backbone on other tasks, and tests it zero-shot. If not set, it does not."""
    knowledge_probing: KnowledgeProbingSection | None = None
    """Tests which facts the backbone predicts. If not set, it does not."""
    verbalizer_search: SearchSection | None = None
    """Search for label words. If not set, the task must have a verbalizer."""
    pattern_search: PatternSearchSection | None = None
    """Search for patterns. If not set, the patterns are used as they are."""
    ppt: PptSection | None = None
    """Prompt pretraining. If not set, no prompt is pretrained."""
    pet: PetSection | None = None
    """Sub-models. If not set, the members are the only ones of the ensemble."""
    members: dict[Name, Member] = Field({})
    """More members of the ensemble, by name."""
    ensemble: EnsembleSection = EnsembleSection()
    """The ensemble."""
    unlabeled_shards: ShardsSection | None = None
    """Unlabeled data that is too large for memory. If not set, students learn from the unlabeled set."""
    distill: DistillSection = DistillSection()
    """Distillation of the students. Without unlabeled data there is none."""
    baseline: BaselineSection | None = None
    """The students, trained on labeled data only. If not set, there are no baselines."""
    learning_curve: LearningCurveSection | None = None
    """Accuracy against the number of labeled examples. If not set, there is no learning curve."""
    prompts: PromptsSection | None = None
    """Prompt tuning. If not set, there are no prompts."""
    resources: ResourcesSection = ResourcesSection()
    """Default resources of steps with a language model."""

    @model_validator(mode="before")
    @classmethod
    def _sections_get_default_resources(cls, values: Any) -> Any:
        return apply_default_resources(values)

    @property
    def has_labels(self) -> bool:
        """Returns True if there is labeled data to learn from."""
        return self.data.train is not None or self.data.shots > 0

    @property
    def has_unlabeled(self) -> bool:
        """Returns True if there is unlabeled data for the ensemble to label."""
        return self.data.unlabeled is not None or (self.data.unlabeled_size > 0 and self.data.pool is not None)

    @property
    def pet_sections(self) -> dict[str, PetSection]:
        """Dotted key -> section with sub-models: `pet`, and members on other backbones."""
        own = {"pet": self.pet} if self.pet else {}
        return {**own, **{f"members.{name}": item for name, item in self._pet_members.items()}}

    @property
    def _pet_members(self) -> dict[str, PetMember]:
        return {name: item for name, item in self.members.items() if isinstance(item, PetMember)}

    @property
    def pet_trainings(self) -> dict[str, TrainingConfig | None]:
        """Dotted key -> training settings of sub-models and of their students."""
        trainings = {f"{key}.training": section.training for key, section in self.pet_sections.items()}
        for key, section in self.pet_sections.items():
            if section.self_training is not None:
                trainings[f"{key}.self_training.training"] = section.self_training.training
                trainings[f"{key}.self_training.finetuning"] = section.self_training.finetuning
        return trainings

    def patterns_of(self, section: PetSection) -> tuple[str, ...]:
        """Names of the patterns that a section trains."""
        return section.patterns or self.hard_patterns

    @property
    def hard_patterns(self) -> tuple[str, ...]:
        """Names of the task's patterns without soft blocks, which need no trained prompt."""
        return tuple(name for name in self.task.patterns if not self.task.pattern(name).has_soft_blocks)

    @property
    def searched_patterns(self) -> tuple[str, ...]:
        """Names of the patterns that a search replaces."""
        return (self.pattern_search.patterns or self.hard_patterns) if self.pattern_search else ()

    @property
    def backbones(self) -> dict[str, BackboneConfig]:
        """Dotted key -> language model."""
        members = {f"members.{name}.backbone": item.backbone for name, item in self._pet_members.items()}
        own = {"backbone": self.backbone} if self.backbone else {}
        generate = self.pattern_search.generate if self.pattern_search else None
        if generate and generate.backbone:
            own["pattern_search.generate.backbone"] = generate.backbone
        return {**own, **members}

    @property
    def language_model(self) -> BackboneConfig:
        """Returns the backbone of the recipe.

        Raises:
            InputError: the recipe has none.
        """
        if self.backbone is None:
            raise InputError("the recipe has no language model.", "Set one: backbone: {asset: MODEL}.", key="backbone")
        return self.backbone

    def num_prompt_vectors(self, key: str) -> int:
        """Returns the length of the longest soft prompt for the model at a dotted key; 0 for encoders."""
        lengths = [self.ppt.num_virtual_tokens] if self.ppt and key == "backbone" else []
        methods: list[PromptConfig] = [*self.prompts.methods.values()] if self.prompts and key == "backbone" else []
        section = self.pet_sections.get("pet" if key == "backbone" else key.removesuffix(".backbone"))
        methods += [section.prompt] if section and section.tune == "prompt" else []
        return max(
            [*lengths, *(method.prompt_length for method in methods if not method.starts_from_prompt)], default=0
        )

    @property
    def encoder_students(self) -> dict[str, EncoderStudent]:
        """Name -> student with an encoder."""
        return {name: item for name, item in self.students.items() if isinstance(item, EncoderStudent)}

    @property
    def encoders(self) -> dict[str, EncoderConfig]:
        """Dotted key -> encoder."""
        students = {f"students.{name}": item for name, item in self.encoder_students.items()}
        kinds = (ProbeMember, FinetunedMember)
        members = {name: item for name, item in self.members.items() if isinstance(item, kinds)}
        own = {f"members.{name}.encoder": item.encoder for name, item in members.items()}
        similar = {
            f"{key}.demonstrations.encoder": section.demonstrations.encoder
            for key, section in self.pet_sections.items()
            if section.demonstrations and section.demonstrations.encoder
        }
        return {**students, **own, **similar}

    @property
    def llm_members(self) -> dict[str, LlmMember]:
        """Name -> member that is a language model at an endpoint."""
        return {name: item for name, item in self.members.items() if isinstance(item, LlmMember)}

    @property
    def nli_members(self) -> dict[str, NliMember]:
        """Name -> member that is a model of natural language inference."""
        return {name: item for name, item in self.members.items() if isinstance(item, NliMember)}

    def prompt_task(self, item: PromptTaskConfig) -> tuple[Task, DataConfig]:
        """Returns the task and data of a downstream task."""
        task, data = (self.task, self.data) if item.task is None or item.data is None else (item.task, item.data)
        if not item.as_choice or item.pattern not in task.patterns:  # which is an error of `check_prompt_tasks`
            return task, data
        with errors_located_in("prompts.tasks"):
            return as_choice(task, item.pattern), data

    def pretrained_for(self, item: PromptTaskConfig | DownstreamTask[Any, Any]) -> int:
        """Returns the index in `ppt.formats` of the pretrained prompt for a downstream task with `init: ppt`.

        Raises:
            InputError: no pretrained format matches.
        """
        assert self.ppt is not None
        if isinstance(item, DownstreamTask):
            kind = select_format_without_match(item.task.name, self.ppt.formats, item.section.format)
        else:
            configured = item.format or ("unified" if item.as_choice and "unified" in self.ppt.formats else None)
            kind = select_format(self.prompt_task(item)[0], item.pattern, self.ppt.formats, configured)
        return self.ppt.formats.index(kind)

    @property
    def datasets(self) -> dict[str, tuple[Task, DataConfig, str]]:
        """Task name -> task, data, and the dotted key of the section with `data`, which is empty for the recipe."""
        datasets = {self.task.name: (self.task, self.data, "")}
        for number, item in enumerate(self.prompts.tasks if self.prompts else ()):
            if item.task is not None and item.data is not None:
                datasets[item.task.name] = (item.task, item.data, f"prompts.tasks.{number}")
        datasets |= {item.task.name: (item.task, item.data, key) for key, item in self.instruction_tasks.items()}
        return datasets

    @property
    def instruction_tasks(self) -> dict[str, InstructionTask]:
        """Dotted key -> task of instruction tuning, to learn or to predict, other than the task of the recipe."""
        section = self.instruction_tuning
        if section is None:
            return {}
        return {
            f"instruction_tuning.{key}.{number}": item
            for key in ("tasks", "held_out")
            for number, item in enumerate(getattr(section, key))
        }

    @property
    def assets(self) -> dict[str, str]:
        """Dotted key -> reference of every asset to fetch before a run.

        Datasets of the hub are left out, because the datasets library fetches them, and so are shards, which are read
        where they are.
        """
        refs = asset_refs(self, include=_is_fetched)
        if self.ppt and "single" not in self.ppt.formats:
            refs.pop("ppt.single.classifier", None)
        return refs


def field_columns(data: DataConfig, fields: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the columns of each field in the files of a task, in the order pool, train, dev, unlabeled, test."""
    sources = data.sources.values()
    return {
        field: tuple(dict.fromkeys(source.fields[field] for source in sources if field in source.fields))
        for field in fields
    }


def _is_fetched(model: Config) -> bool:
    return not isinstance(model, ShardsSection) and not (isinstance(model, Source) and model.asset.startswith("hf:"))
