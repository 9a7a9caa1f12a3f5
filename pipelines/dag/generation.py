"""Steps of text generation with soft prompts.

data/<task>                     the sets of a generation task
prompts/<task>/<method>/<seed>  a soft prompt for it, and the texts that it generates for the test set
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.steps.step import Step
from pipelines.dag.prompts import downstream_step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import generation_tasks
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
        downstream_step(
            config,
            data,
            ppt,
            item,
            method,
            seed,
            run="stages.generation.tuning.stage:run",
            config_class=GenerationTuningConfig,
        )
        for item in generation_tasks(config.prompts)
        for method in (config.prompts.methods if config.prompts else ())
        for seed in (config.prompts.seeds if config.prompts else ())
    ]
