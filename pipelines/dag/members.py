"""Steps of the ensemble's members (sub-models of all generations, probes), of untrained patterns, and of sharded soft
labels.

pet/<pattern>/<seed>            sub-models on the recipe's backbone; the first generation
pet/g<k>/<pattern>/<seed>       sub-models of generation k of iPET
pet/<member>/...                the same on another backbone
probe/<member>                  logistic regression on sentence embeddings
shards                          soft labels for an unlabeled set too large for memory
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.steps.step import Step
from pipelines.dag.prompts import BATCHED, batched_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import PetMember, PetSection, ProbeMember, ShardsSection
from pipelines.schema.sections.prompts import PromptTaskConfig
from pipelines.schema.sections.resources import Section
from stages.common.assets.cache import identity
from stages.common.data import text_shards
from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptConfig
from stages.common.seeds import derive_seed, python_rng
from stages.pet.config import GenerationConfig, PetConfig
from stages.pet.verbalizer_search.config import VerbalizerSearchConfig
from stages.probe.config import ProbeConfig
from stages.prompt_tuning.batched.config import PromptJob
from stages.soft_labels.sharded.config import ShardedLabelsConfig

Words = Mapping[str, Step]
"""Pattern -> the step that finds its label words; empty where the task has its own."""


@dataclass(frozen=True, slots=True)
class MemberSteps:
    """`voting`: the members of the ensemble; `earlier`: the generations of sub-models before them, oldest first;
    `together`: steps that train many of them in one batch.
    """

    members: tuple[Step, ...]
    earlier: tuple[Step, ...] = ()
    together: tuple[Step, ...] = ()


def member_steps(config: PipelineConfig, data: Step, words: Words, ppt: Sequence[Step] = ()) -> MemberSteps:
    """All members of the ensemble, with what comes before them. `ppt`: pretrained prompts."""
    found = _submodels(config, config.pet, config.backbone, "pet", data, words, ppt)
    for name, section in config.members.items():
        if isinstance(section, PetMember):
            more = _submodels(config, section, section.backbone, f"pet/{name}", data, words, ppt)
        else:
            more = MemberSteps((_probe(config, name, section, data),))
        found = MemberSteps(
            (*found.members, *more.members), (*found.earlier, *more.earlier), (*found.together, *more.together)
        )
    return found


def member_kind(member: str) -> str:
    """The kind of a member, for balanced weights: `pet/g2/review/0` -> `pet`, `pet/bert/review/0` -> `pet/bert`."""
    kind, *rest = member.split("/")
    others = [part for part in rest[:-2] if not _is_generation(part)]
    return member if kind == "probe" else "/".join([kind, *others])


def _is_generation(part: str) -> bool:
    return part.startswith("g") and part[1:].isdigit()


def verbalizer_steps(config: PipelineConfig, data: Step) -> dict[str, Step]:
    """Pattern -> the step that finds its label words."""
    section = config.verbalizer_search
    if section is None:
        return {}
    return {
        pattern: Step(
            name=f"verbalizer/{pattern}",
            run="stages.pet.verbalizer_search.stage:run",
            config=VerbalizerSearchConfig(
                task=config.task.only(pattern),
                pattern=pattern,
                backbone=config.backbone,
                method=section.method,
                num_words=section.num_words,
                num_candidates=section.num_candidates,
            ),
            inputs={"data": data},
            assets={"backbone": identity(config.backbone.asset)},
            resources=section.resources,
        )
        for pattern in config.hard_patterns
    }


def untrained_steps(config: PipelineConfig, data: Step, words: Words) -> list[Step]:
    """Patterns measured zero-shot and with demonstrations."""
    found = []
    if config.zero_shot:
        found += [
            _untrained(config, f"zero_shot/{name}", name, 0, config.pet, data, words) for name in config.hard_patterns
        ]
    if config.priming:
        pairs = [(name, seed) for name in config.hard_patterns for seed in config.priming.seeds]
        found += [
            _untrained(config, f"priming/{name}/{seed}", name, config.priming.shots, config.priming, data, words)
            for name, seed in pairs
        ]
    return found


def _untrained(
    config: PipelineConfig, step: str, pattern: str, shots: int, section: Section, data: Step, words: Words
) -> Step:
    return Step(
        name=step,
        run="stages.pet.stage:run",
        config=PetConfig(
            task=config.task.only(pattern),
            pattern=pattern,
            backbone=config.backbone,
            tune="none",
            training=None,
            shots=shots,
            label_unlabeled=False,
            seed=derive_seed(config.seed, step) if shots else 0,
        ),
        inputs={"data": data, **_words_of(pattern, words)},
        assets={"backbone": identity(config.backbone.asset)},
        resources=section.resources,
    )


def _submodels(
    config: PipelineConfig,
    section: PetSection,
    backbone: BackboneConfig,
    prefix: str,
    data: Step,
    words: Words,
    ppt: Sequence[Step],
) -> MemberSteps:
    """Sub-models of one backbone, generation after generation; without labels the first one is zero-shot."""
    seeds = section.seeds if config.has_labels or section.ipet is None else section.seeds[:1]
    pairs = [(pattern, seed) for pattern in config.patterns_of(section) for seed in seeds]
    first = section if config.has_labels else section.model_copy(update={"tune": "none", "mlm": None})
    last = [
        _submodel(config, first, backbone, prefix, pair, _upstream(config, first, pair[0], data, ppt), words)
        for pair in pairs
    ]
    shared: tuple[Step, ...] = ()
    if first.tune == "prompt" and first.batched_training:
        start = ppt if first.prompt.init == "ppt" else ()
        shared = (batched_step(f"{prefix}/{BATCHED}", _jobs(last, ppt), backbone, section, [data], start),)
        last = [replace(step, inputs={**step.inputs, "batched": shared[0]}) for step in last]
    earlier: list[Step] = []
    for number in range(1, section.ipet.generations + 1 if section.ipet else 1):
        earlier += last
        names = [step.name for step in last]
        by_name = dict(zip(names, last, strict=True))
        last = []
        for pair, own in zip(pairs, names, strict=True):
            assert section.ipet is not None
            rng = python_rng(config.seed, "teachers", own)
            chosen = sample_teachers(names, own, section.ipet.teacher_fraction, rng)
            growth = GenerationConfig.of(section.ipet, number, config.has_labels)
            taught = (growth, tuple(by_name[name] for name in chosen))
            upstream = _upstream(config, section, pair[0], data, ppt)
            last.append(_submodel(config, section, backbone, f"{prefix}/g{number}", pair, upstream, words, taught))
    return MemberSteps(tuple(last), tuple(earlier), shared)


def _upstream(
    config: PipelineConfig, section: PetSection, pattern: str, data: Step, ppt: Sequence[Step]
) -> dict[str, Step]:
    """What every sub-model reads: the data, and a pretrained prompt if it starts from one."""
    if section.tune != "prompt" or section.prompt.init != "ppt":
        return {"data": data}
    return {"data": data, "pretrained": ppt[config.pretrained_for(PromptTaskConfig(pattern=pattern))]}


def _jobs(steps: Sequence[Step], ppt: Sequence[Step]) -> list[PromptJob]:
    """What is trained together, from the steps that would train it alone."""
    jobs = []
    for step in steps:
        settings = step.config
        assert isinstance(settings, PetConfig)
        assert settings.training is not None, "tune: prompt has a loop"
        names = ("task", "pattern", "prompt", "training", "loss", "seed", "name")
        shared = {name: getattr(settings, name) for name in names}
        start = next((number for number, item in enumerate(ppt) if item is step.inputs.get("pretrained")), None)
        jobs.append(PromptJob(**shared, data=0, pretrained=start))
    return jobs


def _submodel(
    config: PipelineConfig,
    section: PetSection,
    backbone: BackboneConfig,
    prefix: str,
    pair: tuple[str, int],
    upstream: Mapping[str, Step],
    words: Words,
    taught: tuple[GenerationConfig, tuple[Step, ...]] | None = None,
) -> Step:
    """One sub-model. `pair`: its pattern and seed; `taught`: how its training set grows, and by whom."""
    pattern, seed = pair
    name = f"{prefix}/{pattern}/{seed}"
    return Step(
        name=name,
        run="stages.pet.stage:run",
        config=PetConfig(
            task=config.task.only(pattern),
            pattern=pattern,
            backbone=backbone,
            tune=section.tune,
            lora=section.lora,
            prompt=section.prompt if section.tune == "prompt" else PromptConfig(),
            training=None if section.tune == "none" else section.training,
            loss=section.loss,
            mlm=section.mlm,
            growth=taught[0] if taught else None,
            seed=derive_seed(config.seed, name),
            name=name if section.tune == "prompt" else "",
        ),
        inputs={**upstream, **_words_of(pattern, words), **({"teachers": taught[1]} if taught else {})},
        assets={"backbone": identity(backbone.asset)},
        resources=section.resources,
    )


def _words_of(pattern: str, words: Words) -> dict[str, Step]:
    return {"verbalizer": words[pattern]} if words else {}


def _probe(config: PipelineConfig, name: str, section: ProbeMember, data: Step) -> Step:
    return Step(
        name=f"probe/{name}",
        run="stages.probe.stage:run",
        config=ProbeConfig(
            labels=config.task.labels,
            fields=config.task.fields,
            encoder=section.encoder,
            regularization_c=section.regularization_c,
            contrastive=section.contrastive,
        ),
        inputs={"data": data},
        assets={"encoder": identity(section.encoder.asset)},
        resources=section.resources,
    )


def labeled_shards_step(config: PipelineConfig, section: ShardsSection, voting: tuple[Step, ...]) -> Step:
    """The step `shards`, which reads the files of all members, and the shards."""
    return Step(
        name="soft_label_shards",
        run="stages.soft_labels.sharded.stage:run",
        config=ShardedLabelsConfig(
            labels=config.task.labels,
            ensemble=config.ensemble.mixing,
            groups=tuple(member_kind(step.name) for step in voting),
            shards=section.reading,
        ),
        inputs={"members": voting},
        assets={f"shards.{name}": digest for name, digest in text_shards.shard_digests(section.source.asset).items()},
        resources=section.resources,
    )


def sample_teachers(names: Sequence[str], own: str, share: float, rng: random.Random) -> tuple[str, ...]:
    """Some of the other sub-models, at least one, in the order of `names`."""
    others = [name for name in names if name != own]
    chosen = set(rng.sample(others, max(1, round(share * len(others)))))
    return tuple(name for name in others if name in chosen)
