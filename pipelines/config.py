"""What a recipe may say as a whole, and which of its sections fit together."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field, model_validator

from pipelines.schema.curve_section import LearningCurveSection, check_curve
from pipelines.schema.resources import ResourcesSection, handed_down
from pipelines.schema.sections import (
    BaselineSection,
    DistillSection,
    EnsembleSection,
    Member,
    PetMember,
    PetSection,
    PptSection,
    PrimingSection,
    ProbeMember,
    PromptsSection,
    PromptTaskConfig,
    SearchSection,
    ShardsSection,
)
from pipelines.steps import annotated, prompt_formats
from stages.annotation_splits import AnnotatedData
from stages.errors import InputError
from stages.models.backbones import BackboneConfig
from stages.models.classifier import StudentConfig, check_loop
from stages.models.encoders import EncoderConfig
from stages.prompts.methods import PromptConfig
from stages.splits import DataConfig
from stages.tasks import Name, Task
from stages.training.loop import LoopConfig


class PipelineConfig(BaseModel, frozen=True, extra="forbid"):
    """A recipe: one complete pipeline."""

    name: Name = Field(description="Name of the recipe, and of its report.")
    seed: int = Field(0, description="Every random choice follows from it.")
    task: Task = Field(description="The task: labels, patterns, label words.")
    data: DataConfig = Field(description="Where the texts come from.")
    backbone: BackboneConfig = Field(description="The pretrained language model.")
    student: StudentConfig = Field(description="The encoder of the final classifier.")
    zero_shot: bool = Field(True, description="Also measure every pattern without training.")
    priming: PrimingSection | None = Field(
        None, description="Also measure patterns with demonstrations; none: left out."
    )
    verbalizer_search: SearchSection | None = Field(None, description="Finds label words; none: the task has them.")
    ppt: PptSection | None = Field(None, description="Prompt pretraining; none: left out.")
    pet: PetSection = Field(description="Sub-models.")
    members: dict[Name, Member] = Field({}, description="Further members of the ensemble.")
    ensemble: EnsembleSection = Field(EnsembleSection(), description="The ensemble.")
    shards: ShardsSection | None = Field(None, description="A pile too large for memory; none: left out.")
    distill: DistillSection = Field(description="The student.")
    baseline: BaselineSection | None = Field(None, description="The student on labels alone; none: left out.")
    learning_curve: LearningCurveSection | None = Field(None, description="Accuracy against labels; none: left out.")
    prompts: PromptsSection | None = Field(None, description="Prompt tuning; none: left out.")
    resources: ResourcesSection = Field(ResourcesSection(), description="What steps with a language model get.")

    @model_validator(mode="before")
    @classmethod
    def _resources_are_handed_down(cls, values: Any) -> Any:
        return handed_down(values)

    @model_validator(mode="after")
    def _sections_fit(self) -> PipelineConfig:
        self._check_loops()
        self._check_words()
        self._check_soft_blocks()
        self._check_members()
        self._check_starts()
        check_curve(self)
        if not self.has_labels:
            self._check_zero_labels()
        if self.prompts is not None:
            self._check_prompts(self.prompts)
            self._check_formats(self.prompts)
            annotated.check(self)
        if self.ppt is not None:
            prompt_formats.check_options(self.ppt, self.backbone)
        return self

    def _check_loops(self) -> None:
        """A student has the loop that it needs; a loop that looks at a dev set has one; there is a pile to label."""
        for place, section in (("distill", self.distill), ("baseline", self.baseline)):
            try:
                if section is not None:
                    check_loop(self.student, section.loop)
            except ValueError as error:
                problem, _, remedy = str(error).partition(". ")
                raise InputError(f"{problem}.", remedy, key=f"{place}.loop") from None
        for place, (loop, sets) in self._loops.items():
            if loop is not None and loop.early_stopping and not (sets and all(data.has_dev for data in sets)):
                raise InputError(
                    "early_stopping needs a development set, and there is none here.",
                    "Give one (data.dev, or data.dev_shots), or take early_stopping out." if sets else "Take it out.",
                    key=f"{place}.early_stopping",
                )
        if self.data.unlabeled is None and (self.data.unlabeled_size == 0 or self.data.pool is None):
            raise InputError(
                "there are no unlabelled texts, from which the student learns.",
                "Name a file (data.unlabeled), or a pool and data.unlabeled_size.",
                key="data",
            )

    def _check_words(self) -> None:
        if not self.task.verbalizer and self.verbalizer_search is None:
            raise InputError(
                "the task has no label words.",
                "Write a verbalizer, or have words searched for: verbalizer_search: {}.",
                key="task.verbalizer",
            )
        if self.verbalizer_search is None:
            return
        if self.task.verbalizer or self.task.options:
            what = "label words already" if self.task.verbalizer else "options, whose answers need words of their own"
            raise InputError(f"the task has {what}.", "Take verbalizer_search out.", key="verbalizer_search")
        if not self.has_labels:
            raise InputError("words are found from labelled examples.", "Add some, or a verbalizer.", key="data.shots")
        if self.prompts and any(item.task is None for item in self.prompts.tasks):
            raise InputError(
                "prompts for the recipe's own task need label words.", "Write a verbalizer.", key="task.verbalizer"
            )

    def _check_soft_blocks(self) -> None:
        """Patterns with soft blocks are for prompts, which must use them; sub-models have others."""
        prompted = {item.pattern for item in self.prompts.tasks if item.task is None} if self.prompts else set()
        prompted |= {name for section in self.pet_sections.values() for name in section.patterns or ()}
        for name in self.task.patterns:
            if name not in self.hard_patterns and name not in prompted:
                raise InputError(
                    f"pattern {name!r} has a soft block, which only prompt tuning trains, and no prompt uses it.",
                    f"Take {{soft:...}} out, or name it in prompts.tasks: - pattern: {name}.",
                    key=f"task.patterns.{name}",
                )
        if not self.hard_patterns:
            raise InputError(
                "every pattern has a soft block, and sub-models need one without.", "Add one.", key="task.patterns"
            )
        for place, section in self.pet_sections.items():
            for name in section.patterns or ():
                takes = section.tune == "prompt" and not section.prompt.is_deep and self.has_labels
                if name in self.task.patterns and name not in self.hard_patterns and not takes:
                    raise InputError(
                        f"pattern {name!r} has a soft block, which these sub-models do not train.",
                        "Take it out here; or tune: prompt, with labelled examples and no deep prompt.",
                        key=f"{place}.patterns",
                    )

    def _check_starts(self) -> None:
        """What starts from a pretrained prompt has one."""
        methods = self.prompts.methods if self.prompts else {}
        starts = {f"prompts.methods.{name}": item.start for name, item in methods.items()}
        sections = {place: item for place, item in self.pet_sections.items() if item.tune == "prompt"}
        starts |= {f"{place}.prompt": item.prompt.start for place, item in sections.items()}
        for place, start in starts.items():
            if self.ppt is None and start == "ppt":
                raise InputError(
                    "this starts from ppt, but there is no ppt section.", "Add one: ppt: {...}.", key=f"{place}.start"
                )
        for place, item in sections.items():
            for pattern in self.patterns_of(item) if item.prompt.start == "ppt" else ():
                try:
                    self.pretrained_for(PromptTaskConfig(pattern=pattern))
                except InputError as error:
                    raise error.at(key=f"{place}.prompt.start") from None
            if item.together and self.verbalizer_search:
                raise InputError(
                    "prompts are not trained together with words that are still searched for.",
                    "Write a verbalizer, or take together out.",
                    key=f"{place}.together",
                )
            if place != "pet" and item.prompt.start == "ppt":
                raise InputError(
                    "prompts are pretrained for the recipe's own backbone.",
                    "Take another start.",
                    key=f"{place}.prompt.start",
                )

    def _check_members(self) -> None:
        for name in self.members:
            if re.fullmatch(r"g[0-9]+", name):
                raise InputError(f"{name} names a generation of iPET.", "Choose another.", key=f"members.{name}")
        for place, section in self.pet_sections.items():
            unknown = [name for name in section.patterns or () if name not in self.task.patterns]
            if unknown:
                raise InputError(
                    f"there is no pattern {unknown[0]!r}.",
                    f"Take some of: {', '.join(self.task.patterns)}.",
                    key=f"{place}.patterns",
                )
            seeds = section.seeds if self.has_labels else section.seeds[:1]
            if section.ipet and len(self.patterns_of(section)) * len(seeds) < 2:
                raise InputError(
                    "iPET needs two sub-models, which label for each other.",
                    "Add a pattern or a seed, or take ipet out.",
                    key=f"{place}.ipet",
                )
        if self.priming and self.task.options:
            raise InputError("demonstrations are not for multiple choice.", "Take priming out.", key="priming")

    def _check_zero_labels(self) -> None:
        """Without labelled examples there is only what needs none: zero-shot members, and iPET from them."""
        prompted = self.prompts.tasks if self.prompts else ()
        wants = {
            "baseline": self.baseline is not None,
            "priming": self.priming is not None,
            "distill.gold_share": self.distill.gold_share > 0,
            "prompts": any(item.task is None for item in prompted),
        }
        wants |= {f"members.{name}": item.kind == "probe" for name, item in self.members.items()}
        wants |= {f"{place}.tune": item.tune != "none" and not item.ipet for place, item in self.pet_sections.items()}
        for place, needed in wants.items():
            if needed:
                raise InputError(
                    "there are no labelled examples (data.shots is 0 and data.train is not given).",
                    "Add some; or take this out. Without labels sub-models are zero-shot (pet.tune: none) or learn "
                    "from each other (pet.ipet).",
                    key=place,
                )

    def _check_prompts(self, prompts: PromptsSection) -> None:
        names = [self.prompt_task(item)[0].name for item in prompts.tasks]
        if len(set(names)) < len(names):
            raise InputError(f"two tasks have the same name: {names}.", "Give each its own.", key="prompts.tasks")
        for number, item in enumerate(prompts.tasks):
            known = self.prompt_task(item)[0].patterns
            if item.pattern not in known:
                raise InputError(
                    f"there is no pattern {item.pattern!r}.",
                    f"Take one of: {', '.join(known)}.",
                    key=f"prompts.tasks.{number}.pattern",
                )

    def _check_formats(self, prompts: PromptsSection) -> None:
        """Every downstream task finds the pretrained prompt that it starts from."""
        starts = any(item.start == "ppt" for item in prompts.methods.values())
        for number, item in enumerate(prompts.tasks):
            place = f"prompts.tasks.{number}.format"
            if item.format and self.ppt is None:
                raise InputError("there is no ppt section, which has formats.", "Take this out.", key=place)
            if self.ppt and (starts or item.format):
                try:
                    self.pretrained_for(item)
                except InputError as error:
                    raise error.at(key=place) from None

    @property
    def _loops(self) -> dict[str, tuple[LoopConfig | None, list[DataConfig | AnnotatedData]]]:
        """Dotted place -> loop, and the data whose dev sets its stages look at; none where a stage never looks."""
        own: list[DataConfig | AnnotatedData] = [self.data]
        found = {f"{place}.loop": (section.loop, own) for place, section in self.pet_sections.items()}
        found |= {"distill.loop": (self.distill.loop, own), "ppt.loop": (self.ppt.loop if self.ppt else None, [])}
        found |= {"baseline.loop": (self.baseline.loop if self.baseline else None, own)}
        if self.prompts:
            sets: list[DataConfig | AnnotatedData] = [self.prompt_task(item)[1] for item in self.prompts.tasks]
            sets += [item.data for item in annotated.of(self.prompts)]
            found |= {"prompts.loop": (self.prompts.loop, sets)}
            found |= {f"prompts.methods.{name}.loop": (item.loop, sets) for name, item in self.prompts.methods.items()}
        for name, member in self.members.items():
            if isinstance(member, ProbeMember) and member.contrast:
                found[f"members.{name}.contrast.loop"] = (member.contrast.loop, [])
        return found

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
        found = [self.ppt.num_vectors] if self.ppt and place == "backbone" else []
        methods: list[PromptConfig] = [*self.prompts.methods.values()] if self.prompts and place == "backbone" else []
        section = self.pet_sections.get("pet" if place == "backbone" else place.removesuffix(".backbone"))
        methods += [section.prompt] if section and section.tune == "prompt" else []
        return max([*found, *(method.num_vectors for method in methods if method.start != "ppt")], default=0)

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
        kind = prompt_formats.start_of(self.prompt_task(item)[0], item.pattern, self.ppt.formats, item.format)
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
        for task in annotated.of(self.prompts):
            sources |= {f"{task.place}.data.{name}": item for name, item in task.data.sources.items()}
        if self.ppt:
            sources["ppt.corpus.source"] = self.ppt.corpus.source
        if self.ppt and "single" in self.ppt.formats and self.ppt.single.classifier:
            found["ppt.single.classifier"] = self.ppt.single.classifier
        return found | {f"{place}.asset": i.asset for place, i in sources.items() if not i.asset.startswith("hf:")}
