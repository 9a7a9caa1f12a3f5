"""Steps of prompt tuning, for classification and for token-level tasks.

data/<task>                     the splits of a token-level task
prompts/<task>/<method>/<seed>  a soft prompt for a task; with a head for a token-level task
prompts/together                trains all prompts for classification in one batch, if the recipe says so; the steps
                                above then only test
pet/together                    the same for sub-models with `tune: prompt`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from cluster.steps.step import Resources, Step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.rules import pretrained_for_token_level
from pipelines.schema.sections.prompts import TokenLevelTask, token_level_tasks
from pipelines.schema.sections.resources import Section
from stages.common.assets.cache import identity
from stages.common.models.backbones.config import BackboneConfig
from stages.common.seeds import derive_seed
from stages.prompt_tuning.batched.config import BatchedTuningConfig, PromptJob
from stages.prompt_tuning.config import PromptTuningConfig
from stages.token_level.splits.config import TokenLevelSplitsConfig
from stages.token_level.tuning.config import TokenLevelTuningConfig


def token_level_data_steps(config: PipelineConfig, resources: Resources) -> dict[str, Step]:
    """Task name -> the step that draws its sets."""
    return {item.task.name: _token_level_data(config, item, resources) for item in token_level_tasks(config.prompts)}


def _token_level_data(config: PipelineConfig, item: TokenLevelTask, resources: Resources) -> Step:
    name = f"data/{item.task.name}"
    return Step(
        name=name,
        run="stages.token_level.splits.stage:run",
        config=TokenLevelSplitsConfig(task=item.task, data=item.data, seed=derive_seed(config.seed, name)),
        assets={key: identity(source.asset) for key, source in item.data.sources.items()},
        resources=resources,
    )


def token_level_prompt_steps(config: PipelineConfig, data: dict[str, Step], ppt: Sequence[Step]) -> list[Step]:
    """A step for each task, method and seed."""
    make = partial(_token_level_prompt, config, data, ppt)
    section = config.prompts
    if section is None:
        return []
    return [
        make(item, method, seed)
        for item in token_level_tasks(section)
        for method in section.methods
        for seed in section.seeds
    ]


def _token_level_prompt(
    config: PipelineConfig, data: dict[str, Step], ppt: Sequence[Step], item: TokenLevelTask, method: str, seed: int
) -> Step:
    assert config.prompts is not None
    settings = config.prompts.methods[method]
    name = f"prompts/{item.task.name}/{method}/{seed}"
    upstream = {"pretrained": ppt[pretrained_for_token_level(config, item)]} if settings.init == "ppt" else {}
    return Step(
        name=name,
        run="stages.token_level.tuning.stage:run",
        config=TokenLevelTuningConfig(
            task=item.task,
            backbone=config.backbone,
            prompt=settings.prompt,
            training=settings.training or config.prompts.training,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data[item.task.name], **upstream},
        assets={"backbone": identity(config.backbone.asset)},
        resources=config.prompts.resources,
    )


BATCHED = "batched"


def batched_step(
    name: str,
    jobs: Sequence[PromptJob],
    backbone: BackboneConfig,
    section: Section,
    data: Sequence[Step],
    pretrained: Sequence[Step] = (),
) -> Step:
    """The step that trains prompts together.

    Args:
        name: Its name.
        jobs: The prompts; their `data` and `pretrained` count the steps below.
        backbone: The frozen model.
        section: Says what the step gets.
        data: Split steps.
        pretrained: Prompt-pretraining steps.
    """
    return Step(
        name=name,
        run="stages.prompt_tuning.batched.stage:run",
        config=BatchedTuningConfig(backbone=backbone, jobs=tuple(jobs)),
        inputs={"data": tuple(data), **({"pretrained": tuple(pretrained)} if pretrained else {})},
        assets={"backbone": identity(backbone.asset)},
        resources=section.resources,
    )


def prompt_steps(
    config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step]
) -> tuple[list[Step], list[Step]]:
    """The prompts' steps, and those before them."""
    section = config.prompts
    if section is None:
        return [], []
    sets = [data[config.prompt_task(item)[0].name] for item in section.tasks]
    jobs = []
    for number, item in enumerate(section.tasks):
        task, _ = config.prompt_task(item)
        for method, settings in section.methods.items():
            for seed in section.seeds:
                name = f"prompts/{task.name}/{method}/{seed}"
                jobs.append(
                    PromptJob(
                        name=name,
                        task=task.only(item.pattern),
                        pattern=item.pattern,
                        prompt=settings.prompt,
                        training=settings.training or section.training,
                        seed=derive_seed(config.seed, name),
                        data=number,
                        pretrained=config.pretrained_for(item) if settings.init == "ppt" else None,
                    )
                )
    before = (
        [batched_step(f"prompts/{BATCHED}", jobs, config.backbone, section, sets, ppt)]
        if section.batched_training
        else []
    )
    return [_prompt(config, section, job, sets, ppt, before) for job in jobs], before


def init_kinds(config: PipelineConfig) -> dict[str, str]:
    """Method -> what its prompts start from, for the report."""
    methods = config.prompts.methods if config.prompts else {}
    return {name: item.init if item.init == "ppt" else item.init.kind for name, item in methods.items()}


def _prompt(
    config: PipelineConfig,
    section: Section,
    job: PromptJob,
    sets: Sequence[Step],
    ppt: Sequence[Step],
    before: Sequence[Step],
) -> Step:
    if before:
        upstream = {"batched": before[0]}
    else:
        upstream = {} if job.pretrained is None else {"pretrained": ppt[job.pretrained]}
    return Step(
        name=job.name,
        run="stages.prompt_tuning.stage:run",
        config=PromptTuningConfig(
            task=job.task,
            pattern=job.pattern,
            backbone=config.backbone,
            prompt=job.prompt,
            training=job.training,
            seed=job.seed,
            name=job.name,
        ),
        inputs={"data": sets[job.data], **upstream},
        assets={"backbone": identity(config.backbone.asset)},
        resources=section.resources,
    )
