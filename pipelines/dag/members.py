"""Steps of the ensemble's members (sub-models of all generations, probes), of untrained patterns, and of sharded soft
labels.

pet/<pattern>/<seed>            sub-models on the recipe's backbone; the first generation
pet/g<k>/<pattern>/<seed>       sub-models of generation k of iPET, or students of self-training
pet/<member>/...                the same on another backbone
probe/<member>                  logistic regression on sentence embeddings
priming/<pattern>/<seed>        in-context learning, not a member
finetuned/<member>              an encoder, trained on the labeled examples
tfidf/<member>                  logistic regression or naive Bayes on TF-IDF features
word_vectors/<member>           logistic regression on averaged word vectors
nli/<member>                    a model of natural language inference, without training
llm/<member>                    a language model at an endpoint
soft_label_shards               soft labels for unlabeled data that is too large for memory
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.steps.step import Step
from pipelines.dag.prompts import batched_step
from pipelines.dag.searches import Searches
from pipelines.dag.steps import make_step, supervised_task, text_task
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import (
    FinetunedMember,
    LlmMember,
    NliMember,
    PetMember,
    PetSection,
    PrimingSection,
    ProbeMember,
    ShardsSection,
    TfidfMember,
    WordVectorMember,
)
from pipelines.schema.sections.prompts import PromptTaskConfig
from pipelines.schema.sections.resources import Section
from stages.baseline.config import BaselineConfig
from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import StudentConfig
from stages.common.prompts.config import PromptConfig
from stages.common.seeds import python_rng
from stages.in_context.config import InContextConfig
from stages.llm.config import LlmConfig
from stages.nli.config import NliConfig
from stages.pet.config import GenerationConfig, PetConfig, PseudoLabelConfig
from stages.probe.config import ProbeConfig
from stages.prompt_tuning.batched.config import PromptJob
from stages.soft_labels.config import EnsembleConfig
from stages.soft_labels.sharded.config import ShardedLabelsConfig, ShardsConfig
from stages.tfidf.config import TfidfConfig
from stages.word_vectors.config import WordVectorConfig

UNTRAINED = {"tune": "none", "mlm": None, "label_conditioning": None}
"""Settings of sub-models of the first generation without labeled data."""


@dataclass(frozen=True, slots=True)
class MemberSteps:
    """`members`: the members of the ensemble; `earlier`: the generations of sub-models before them, oldest first;
    `batched`: steps that train many of them in the same batches.
    """

    members: tuple[Step, ...]
    earlier: tuple[Step, ...] = ()
    batched: tuple[Step, ...] = ()


def member_steps(config: PipelineConfig, data: Step, searches: Searches, ppt: Sequence[Step] = ()) -> MemberSteps:
    """Returns all members of the ensemble, with the steps before them. `ppt`: pretrained prompts."""
    members: list[MemberSteps] = []
    if config.pet:
        members.append(_SubModels(config, config.pet, config.language_model, "pet", data, searches, ppt).steps())
    for name, section in config.members.items():
        if isinstance(section, PetMember):
            members.append(_SubModels(config, section, section.backbone, f"pet/{name}", data, searches, ppt).steps())
        else:
            members.append(MemberSteps((_classifier(config, name, section, data),)))
    return MemberSteps(
        tuple(step for item in members for step in item.members),
        tuple(step for item in members for step in item.earlier),
        tuple(step for item in members for step in item.batched),
    )


def untrained_steps(config: PipelineConfig, data: Step, searches: Searches) -> list[Step]:
    """Returns the steps that test each pattern without training: zero-shot, and with demonstrations."""
    steps = []
    if config.zero_shot and config.backbone:
        section = config.pet or Section()
        steps += [_untrained(config, "zero_shot", name, section, data, searches) for name in config.hard_patterns]
    if config.priming:
        steps += [
            _in_context(config, config.priming, name, seed, data, searches)
            for name in config.hard_patterns
            for seed in config.priming.seeds
        ]
    return steps


def _untrained(
    config: PipelineConfig, kind: str, pattern: str, section: Section, data: Step, searches: Searches
) -> Step:
    """Returns a sub-model without training."""
    return make_step(
        config,
        f"{kind}/{pattern}",
        kind=kind,
        run="stages.pet.stage:run",
        config=PetConfig(
            task=config.task.only(pattern),
            pattern=pattern,
            backbone=config.language_model,
            tune="none",
            label_unlabeled=False,
            seed=0,
        ),
        inputs={"data": data, **searches.inputs(pattern)},
        resources=section.resources,
        row=f"{kind}/{pattern}",
        pattern=pattern,
    )


def _in_context(
    config: PipelineConfig, section: PrimingSection, pattern: str, seed: int, data: Step, searches: Searches
) -> Step:
    """Returns a step of in-context learning."""
    return make_step(
        config,
        f"priming/{pattern}/{seed}",
        kind="priming",
        run="stages.in_context.stage:run",
        config=InContextConfig.of(
            section, task=config.task.only(pattern), pattern=pattern, backbone=config.language_model
        ),
        inputs={"data": data, **searches.inputs(pattern)},
        resources=section.resources,
        row=f"priming/{pattern}",
        pattern=pattern,
        seed=str(seed),
    )


@dataclass(frozen=True, slots=True)
class _SubModels:
    """Makes the sub-models of one section, generation after generation. `prefix`: of their names."""

    config: PipelineConfig
    section: PetSection
    backbone: BackboneConfig
    prefix: str
    data: Step
    searches: Searches
    ppt: Sequence[Step]

    def steps(self) -> MemberSteps:
        """Returns all generations. Without labeled data, the first one is zero-shot."""
        config, section = self.config, self.section
        seeds = section.seeds if config.has_labels or section.ipet is None else section.seeds[:1]
        pairs = [(pattern, seed) for pattern in config.patterns_of(section) for seed in seeds]
        first = section if config.has_labels else section.model_copy(update=UNTRAINED)
        last = [self._submodel(first, pattern, seed) for pattern, seed in pairs]
        batched: tuple[Step, ...] = ()
        if first.tune == "prompt" and first.batched_training:
            batched = (self._batched(last),)
            last = [replace(step, inputs={**step.inputs, "batched": batched[0]}) for step in last]
        earlier: list[Step] = []
        for number in range(1, section.num_generations + 1):
            earlier += last
            last = [self._next_generation(step, pair, number, last) for step, pair in zip(last, pairs, strict=True)]
        return MemberSteps(tuple(last), tuple(earlier), batched)

    def _next_generation(self, step: Step, pair: tuple[str, int], number: int, generation: Sequence[Step]) -> Step:
        """Returns the successor of a sub-model. In iPET some of the others of its generation are its teachers, in
        self-training it is the sub-model itself.
        """
        students, ipet = self.section.self_training, self.section.ipet
        if students is not None:
            section = self.section.model_copy(update={"tune": students.tune, "training": students.training})
            return self._submodel(
                section, *pair, student=PseudoLabelConfig.of(students, generation=number), teachers=[step]
            )
        assert ipet is not None
        names = [item.name for item in generation]
        rng = python_rng(self.config.seed, "teachers", step.name)
        teachers = sample_teachers(names, step.name, ipet.teacher_fraction, rng)
        return self._submodel(
            self.section,
            *pair,
            growth=GenerationConfig.of(ipet, generation=number, from_zero=not self.config.has_labels),
            teachers=[item for item in generation if item.name in teachers],
        )

    def _submodel(
        self,
        section: PetSection,
        pattern: str,
        seed: int,
        *,
        growth: GenerationConfig | None = None,
        student: PseudoLabelConfig | None = None,
        teachers: Sequence[Step] = (),
    ) -> Step:
        """Returns one sub-model. `growth` or `student`, and `teachers`, define what a later generation learns from."""
        later = growth or student
        row = "/".join([self.prefix, *([f"g{later.generation}"] if later else []), pattern])
        name = f"{row}/{seed}"
        is_prompt = section.tune == "prompt"
        uses_ppt = is_prompt and section.prompt.init == "ppt"
        start = self.config.pretrained_for(PromptTaskConfig(pattern=pattern)) if uses_ppt else None
        return make_step(
            self.config,
            name,
            kind="pet",
            run="stages.pet.stage:run",
            config=PetConfig.of(
                section,
                task=self.config.task.only(pattern),
                pattern=pattern,
                backbone=self.backbone,
                prompt=section.prompt if is_prompt else PromptConfig(),
                training=None if section.tune == "none" else section.training,
                growth=growth,
                student=student,
                name=name if is_prompt else "",
            ),
            inputs={
                "data": self.data,
                "pretrained": None if start is None else self.ppt[start],
                **self.searches.inputs(pattern),
                "teachers": teachers,
            },
            resources=section.resources,
            row=row,
            seed=str(seed),
            pattern=pattern,
            member=self.prefix,
            generation=str(later.generation if later else 0),
        )

    def _batched(self, steps: Sequence[Step]) -> Step:
        """Returns the step that trains all sub-models of the first generation in the same batches."""
        jobs = []
        for step in steps:
            assert isinstance(step.config, PetConfig)
            start = next(
                (number for number, item in enumerate(self.ppt) if item is step.inputs.get("pretrained")), None
            )
            jobs.append(PromptJob.of(step.config, data=0, pretrained=start))
        return batched_step(
            self.config,
            self.prefix,
            kind="batched_members",
            jobs=jobs,
            backbone=self.backbone,
            resources=self.section.resources,
            data=[self.data],
            pretrained=self.ppt if self.section.prompt.init == "ppt" else (),
        )


def _classifier(
    config: PipelineConfig,
    name: str,
    section: ProbeMember | FinetunedMember | TfidfMember | WordVectorMember | NliMember | LlmMember,
    data: Step,
) -> Step:
    """Returns the step of a member without patterns."""
    task = supervised_task(config, is_member=True)
    stage_config: Config
    if isinstance(section, ProbeMember):
        run, stage_config = "stages.probe.stage:run", ProbeConfig.of(section, **task)
    elif isinstance(section, FinetunedMember):
        run = "stages.baseline.stage:run"
        student = StudentConfig.of(section.encoder)
        stage_config = BaselineConfig.of(section, student=student, label_unlabeled=True, **task)
    elif isinstance(section, TfidfMember):
        run, stage_config = "stages.tfidf.stage:run", TfidfConfig.of(section, **task)
    elif isinstance(section, WordVectorMember):
        run, stage_config = "stages.word_vectors.stage:run", WordVectorConfig.of(section, **task)
    elif isinstance(section, NliMember):
        run, stage_config = "stages.nli.stage:run", NliConfig.of(section, **text_task(config))
    else:
        run, stage_config = "stages.llm.stage:run", LlmConfig.of(section, **text_task(config))
    return make_step(
        config,
        f"{section.kind}/{name}",
        kind=section.kind,
        run=run,
        config=stage_config,
        inputs={"data": data},
        resources=section.resources,
        row=f"{section.kind}/{name}",
        member=f"{section.kind}/{name}",
    )


def labeled_shards_step(config: PipelineConfig, section: ShardsSection, members: tuple[Step, ...]) -> Step:
    """Returns the step that labels shards with the ensemble."""
    return make_step(
        config,
        "soft_label_shards",
        kind="soft_label_shards",
        run="stages.soft_labels.sharded.stage:run",
        config=ShardedLabelsConfig(
            labels=config.task.labels,
            ensemble=EnsembleConfig.of(config.ensemble),
            groups=tuple(step.labels["member"] for step in members),
            have_priors=tuple(KINDS[step.kind].has_prior for step in members),
            shards=ShardsConfig.of(section),
        ),
        inputs={"members": members},
        resources=section.resources,
        shards="shards.source.asset",
    )


def sample_teachers(names: Sequence[str], own: str, fraction: float, rng: random.Random) -> tuple[str, ...]:
    """Samples some of the other sub-models, at least one, and keeps the order of `names`."""
    others = [name for name in names if name != own]
    sampled = set(rng.sample(others, max(1, round(fraction * len(others)))))
    return tuple(name for name in others if name in sampled)
