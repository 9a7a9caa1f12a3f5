"""Steps of text generation with soft prompts.

data/<task>                     the sets of a generation task
prompts/<task>/<method>/<seed>  a soft prompt for it, and the texts that it generates for the test set
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.steps.step import Step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import DownstreamGeneration, generation_tasks
from stages.common.prompts.config import PromptConfig
from stages.generation.splits.config import GenerationSplitsConfig
from stages.generation.tuning.config import GenerationTuningConfig


def generation_data_steps(config: PipelineConfig) -> dict[str, Step]:
    """Task name -> the step that samples its sets."""
    return {
        item.task.name: make_step(
            config,
            f"data/{item.task.name}",
            kind="data",
            run="stages.generation.splits.stage:run",
            config=GenerationSplitsConfig(task=item.task.name, fields=item.task.fields, data=item.section.data),
            task=item.task.name,
        )
        for item in generation_tasks(config.prompts)
    }


def generation_prompt_steps(config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step]) -> list[Step]:
    """Returns one step per generation task, method and seed."""
    return [
        _prompt(config, data, ppt, item, method, seed)
        for item in generation_tasks(config.prompts)
        for method in (config.prompts.methods if config.prompts else ())
        for seed in (config.prompts.seeds if config.prompts else ())
    ]


def _prompt(
    config: PipelineConfig,
    data: Mapping[str, Step],
    ppt: Sequence[Step],
    item: DownstreamGeneration,
    method: str,
    seed: int,
) -> Step:
    assert config.prompts is not None
    settings, row = config.prompts.methods[method], f"prompts/{item.task.name}/{method}"
    return make_step(
        config,
        f"{row}/{seed}",
        kind="prompts",
        run="stages.generation.tuning.stage:run",
        config=GenerationTuningConfig(
            task=item.task,
            backbone=config.language_model,
            prompt=PromptConfig.of(settings),
            training=settings.training or config.prompts.training,
        ),
        inputs={
            "data": data[item.task.name],
            "pretrained": ppt[config.pretrained_for(item)] if settings.init == "ppt" else None,
        },
        resources=config.prompts.resources,
        row=row,
        seed=str(seed),
        task=item.task.name,
        method=method,
    )
