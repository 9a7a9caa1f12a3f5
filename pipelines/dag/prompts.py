"""Steps of prompt tuning, for classification, token-level tasks and regression.

data/<task>                     the sets of a token-level or regression task
prompts/<task>/<method>/<seed>  a soft prompt for a task; with a linear head for a token-level task
prompts/batched                 with batched_training: trains all prompts for classification in the same batches; the
                                steps above then only test
pet/batched                     the same for sub-models with `tune: prompt`

Steps of prompt pretraining: one prompt per format and, for a sharded corpus, a step before it that builds the
examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.steps.step import Resources, Step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import DownstreamTask, PptSection, regression_tasks, token_level_tasks
from stages.common.data.config import CorpusConfig
from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptConfig, TransferConfig
from stages.common.seeds import derive_seed
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.formats import PretrainingFormat
from stages.prompt_tuning.batched.config import BatchedTuningConfig, PromptJob
from stages.prompt_tuning.config import PromptTuningConfig
from stages.regression.splits.config import RegressionSplitsConfig
from stages.regression.tuning.config import RegressionTuningConfig
from stages.token_level.splits.config import TokenLevelSplitsConfig
from stages.token_level.tuning.config import TokenLevelTuningConfig


def downstream_data_steps(config: PipelineConfig) -> dict[str, Step]:
    """Name of a token-level or regression task -> the step that samples its sets."""
    tasks: list[tuple[DownstreamTask[Any, Any], str, type[TokenLevelSplitsConfig | RegressionSplitsConfig]]] = [
        *((item, "token_level", TokenLevelSplitsConfig) for item in token_level_tasks(config.prompts)),
        *((item, "regression", RegressionSplitsConfig) for item in regression_tasks(config.prompts)),
    ]
    return {
        item.task.name: make_step(
            config,
            f"data/{item.task.name}",
            kind="data",
            run=f"stages.{package}.splits.stage:run",
            config=settings(task=item.task, data=item.section.data),
            task=item.task.name,
        )
        for item, package, settings in tasks
    }


def downstream_prompt_steps(
    config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step], prompts: Sequence[Step]
) -> list[Step]:
    """Returns one step per token-level or regression task, method and seed.

    Args:
        config: The recipe.
        data: Task -> the step that samples its sets.
        ppt: Steps of prompt pretraining.
        prompts: Steps of the prompts of classification tasks, from which others may start.
    """
    if config.prompts is None:
        return []
    tasks: list[tuple[DownstreamTask[Any, Any], str, type[TokenLevelTuningConfig | RegressionTuningConfig]]] = [
        *((item, "token_level", TokenLevelTuningConfig) for item in token_level_tasks(config.prompts)),
        *((item, "regression", RegressionTuningConfig) for item in regression_tasks(config.prompts)),
    ]
    steps = []
    for item, package, settings in tasks:
        for method, prompt in config.prompts.methods.items():
            for seed in config.prompts.seeds:
                row = f"prompts/{item.task.name}/{method}"
                step = make_step(
                    config,
                    f"{row}/{seed}",
                    kind="prompts",
                    run=f"stages.{package}.tuning.stage:run",
                    config=settings(
                        task=item.task,
                        backbone=config.language_model,
                        prompt=PromptConfig.of(prompt),
                        training=prompt.training or config.prompts.training,
                    ),
                    inputs={"data": data[item.task.name], **upstream_prompts(config, item, prompt, ppt, prompts, seed)},
                    resources=config.prompts.resources,
                    row=row,
                    seed=str(seed),
                    task=item.task.name,
                    method=method,
                )
                steps.append(step)
    return steps


def upstream_prompts(
    config: PipelineConfig,
    item: DownstreamTask[Any, Any],
    prompt: PromptConfig,
    ppt: Sequence[Step],
    prompts: Sequence[Step],
    seed: int,
) -> dict[str, Step | Sequence[Step] | None]:
    """Returns the steps whose prompts a prompt for a downstream task starts from or mixes, by role."""
    pretrained = ppt[config.pretrained_for(item)] if prompt.uses_ppt else None
    return {
        "pretrained": pretrained if prompt.init == "ppt" else transferred(prompt.transfer, prompts, seed),
        "sources": mixed(prompt, prompts, seed, pretrained),
    }


def batched_step(
    config: PipelineConfig,
    prefix: str,
    *,
    kind: str,
    jobs: Sequence[PromptJob],
    backbone: BackboneConfig,
    resources: Resources,
    data: Sequence[Step],
    pretrained: Sequence[Step] = (),
) -> Step:
    """Returns the step that trains prompts in the same batches.

    Args:
        config: The recipe.
        prefix: First part of its name.
        kind: Its kind.
        jobs: The prompts. Their `data` and `pretrained` are indices of the steps below.
        backbone: The frozen language model.
        resources: Resources of the step.
        data: Split steps.
        pretrained: Prompt-pretraining steps.
    """
    return make_step(
        config,
        f"{prefix}/batched",
        kind=kind,
        run="stages.prompt_tuning.batched.stage:run",
        config=BatchedTuningConfig(backbone=backbone, jobs=tuple(jobs)),
        inputs={"data": data, "pretrained": pretrained},
        resources=resources,
    )


def prompt_steps(
    config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step]
) -> tuple[list[Step], list[Step]]:
    """Returns the step that trains all prompts in the same batches, if there is one, and one step per prompt."""
    section = config.prompts
    if section is None:
        return [], []
    sets = [data[config.prompt_task(item)[0].name] for item in section.tasks]
    jobs: list[tuple[PromptJob, dict[str, str]]] = []
    for number, item in enumerate(section.tasks):
        task, _ = config.prompt_task(item)
        for method, settings in section.methods.items():
            for seed in section.seeds:
                row = f"prompts/{task.name}/{method}"
                job = PromptJob(
                    name=f"{row}/{seed}",
                    task=task.only(item.pattern),
                    pattern=item.pattern,
                    prompt=PromptConfig.of(settings),
                    training=settings.training or section.training,
                    loss=section.loss,
                    seed=derive_seed(config.seed, f"{row}/{seed}"),
                    data=number,
                    pretrained=config.pretrained_for(item) if settings.init == "ppt" else None,
                )
                jobs.append((job, {"row": row, "seed": str(seed), "task": task.name, "method": method}))
    batched: list[Step] = []
    if section.batched_training:
        batched.append(
            batched_step(
                config,
                "prompts",
                kind="batched_prompts",
                jobs=[job for job, _ in jobs],
                backbone=config.language_model,
                resources=section.resources,
                data=sets,
                pretrained=ppt,
            )
        )
    steps: dict[str, Step] = {}
    for job, labels in sorted(jobs, key=lambda item: _order(item[0].prompt)):
        upstream = None if batched or job.pretrained is None else ppt[job.pretrained]
        pretrained = ppt[config.pretrained_for(section.tasks[job.data])] if job.prompt.uses_ppt else None
        trained, seed = list(steps.values()), int(labels["seed"])
        steps[job.name] = make_step(
            config,
            job.name,
            kind="prompts",
            run="stages.prompt_tuning.stage:run",
            config=PromptTuningConfig.of(job, backbone=config.language_model),
            inputs={
                "data": sets[job.data],
                "batched": batched[0] if batched else None,
                "pretrained": upstream or transferred(job.prompt.transfer, trained, seed),
                "sources": mixed(job.prompt, trained, seed, pretrained),
            },
            resources=section.resources,
            **labels,
        )
    return batched, [steps[job.name] for job, _ in jobs]


def _order(prompt: PromptConfig) -> int:
    """Returns a number that is higher than those of the prompts that a prompt uses."""
    if prompt.sources:
        return 2
    return 0 if prompt.transfer is None else 1


def transferred(transfer: TransferConfig | None, prompts: Sequence[Step], seed: int) -> Step | None:
    """Returns the step of the prompt of another task that a prompt with this seed starts from."""
    if transfer is None:
        return None
    wanted = {"task": transfer.task, "method": transfer.method, "seed": str(seed)}
    return next(step for step in prompts if wanted.items() <= step.labels.items())


def mixed(prompt: PromptConfig, prompts: Sequence[Step], seed: int, pretrained: Step | None) -> list[Step]:
    """Returns the steps of the prompts that a prompt with this seed mixes, in the order of its config.

    Args:
        prompt: The config with the sources.
        prompts: Steps of the prompts of classification tasks.
        seed: The seed.
        pretrained: The step of the pretrained prompt, if one is a source.
    """
    steps = [pretrained if item == "ppt" else transferred(item, prompts, seed) for item in prompt.sources]
    return [step for step in steps if step is not None]


def init_kinds(config: PipelineConfig) -> dict[str, str]:
    """Method -> the initialization of its prompts, for the report."""
    methods = config.prompts.methods if config.prompts else {}
    return {
        name: "transfer" if item.transfer else item.init if item.init == "ppt" else item.init.kind
        for name, item in methods.items()
    }


def pretraining_steps(config: PipelineConfig) -> tuple[list[Step], list[Step]]:
    """Returns the steps that build examples, and one step per format of `ppt.formats`, in this order."""
    ppt = config.ppt
    if ppt is None:
        return [], []
    examples = [_examples(config, ppt, kind) for kind in ppt.formats] if ppt.corpus.shards else []
    upstream: Sequence[Step | None] = examples or [None] * len(ppt.formats)
    return examples, [_prompt(config, ppt, kind, step) for kind, step in zip(ppt.formats, upstream, strict=True)]


def _examples(config: PipelineConfig, section: PptSection, kind: PretrainingFormat) -> Step:
    assert section.corpus.shards is not None
    needs_backbone = kind == "single" and not section.single.classifier
    return make_step(
        config,
        f"ppt_examples/{kind}",
        kind="ppt_examples",
        run="stages.prompt_pretraining.examples.stage:run",
        config=PretrainingExamplesConfig.of(
            section, **_settings_of(section, kind), backbone=config.language_model if needs_backbone else None
        ),
        resources=section.corpus.shards.resources,
        shards="corpus.source.asset",
        format=kind,
    )


def _prompt(config: PipelineConfig, section: PptSection, kind: PretrainingFormat, examples: Step | None) -> Step:
    return make_step(
        config,
        f"ppt/{kind}",
        kind="ppt",
        run="stages.prompt_pretraining.stage:run",
        config=PretrainingConfig.of(section, **_settings_of(section, kind), backbone=config.language_model),
        inputs={"examples": examples},
        resources=section.resources,
        shards="corpus.source.asset" if examples else "",
        format=kind,
    )


def _settings_of(section: PptSection, kind: PretrainingFormat) -> dict[str, Any]:
    """Settings of one format. Settings of other formats keep their defaults, so that changing them reruns nothing."""
    options = {"num_options": section.num_options(kind)} if kind in ("choice", "unified") else {}
    return {
        "format": kind,
        "corpus": CorpusConfig.of(section.corpus),
        "single": section.single if kind == "single" else SingleConfig(),
        **options,
    }
