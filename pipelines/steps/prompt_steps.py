"""Steps of prompt tuning.

prompts/<task>/<method>/<seed>  a soft prompt for a downstream task
prompts/together                trains them all in one batch first, where the recipe says so; those above then test
                                theirs
pet/together                    the same for sub-models with `tune: prompt`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.step import Step
from pipelines.config import PipelineConfig
from pipelines.schema.sections import Section
from stages import prompt_tuning, prompts_together
from stages.models.backbones import BackboneConfig
from stages.prompts_together import Job
from stages.seeds import derive_seed
from stages.texts import assets

TOGETHER = "together"


def together(
    name: str,
    jobs: Sequence[Job],
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
        run="stages.prompts_together:run",
        config=prompts_together.Config(backbone=backbone, jobs=tuple(jobs)),
        inputs={"data": tuple(data), **({"pretrained": tuple(pretrained)} if pretrained else {})},
        assets={"backbone": assets.identity(backbone.asset)},
        resources=section.resources,
    )


def prompts(config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step]) -> tuple[list[Step], list[Step]]:
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
                    Job(
                        name=name,
                        task=task.only(item.pattern),
                        pattern=item.pattern,
                        prompt=settings.prompt,
                        loop=settings.loop or section.loop,
                        seed=derive_seed(config.seed, name),
                        data=number,
                        pretrained=config.pretrained_for(item) if settings.start == "ppt" else None,
                    )
                )
    before = [together(f"prompts/{TOGETHER}", jobs, config.backbone, section, sets, ppt)] if section.together else []
    return [_prompt(config, section, job, sets, ppt, before) for job in jobs], before


def starts(config: PipelineConfig) -> dict[str, str]:
    """Method -> what its prompts start from, for the report."""
    methods = config.prompts.methods if config.prompts else {}
    return {name: item.start if item.start == "ppt" else item.start.kind for name, item in methods.items()}


def _prompt(
    config: PipelineConfig,
    section: Section,
    job: Job,
    sets: Sequence[Step],
    ppt: Sequence[Step],
    before: Sequence[Step],
) -> Step:
    if before:
        upstream = {"together": before[0]}
    else:
        upstream = {} if job.pretrained is None else {"pretrained": ppt[job.pretrained]}
    return Step(
        name=job.name,
        run="stages.prompt_tuning:run",
        config=prompt_tuning.Config(
            task=job.task,
            pattern=job.pattern,
            backbone=config.backbone,
            prompt=job.prompt,
            loop=job.loop,
            seed=job.seed,
            name=job.name,
        ),
        inputs={"data": sets[job.data], **upstream},
        assets={"backbone": assets.identity(config.backbone.asset)},
        resources=section.resources,
    )
