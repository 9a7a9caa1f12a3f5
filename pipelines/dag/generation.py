"""Steps of text generation with soft prompts.

data/<task>                           the sets of a generation task
tuned_prompts/<task>/<method>/<seed>  trains a soft prompt for it
prompts/<task>/<method>/<seed>        the texts that this prompt generates for the test set, and their scores

Generation is a step of its own, so that a change of `decoding` trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.steps.step import Step
from pipelines.dag.prompts import upstream_prompts
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import DownstreamTask, GenerationSection, generation_tasks
from stages.common.prompts.config import PromptConfig
from stages.common.seeds import derive_seed
from stages.generation.config import GenerationTask, TargetTask
from stages.generation.evaluation.config import GenerationEvaluationConfig
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


def generation_prompt_steps(
    config: PipelineConfig, data: Mapping[str, Step], ppt: Sequence[Step], prompts: Sequence[Step]
) -> list[Step]:
    """Returns two steps per generation task, method and seed: the training, and the texts of the test set.

    Args:
        config: The recipe.
        data: Task -> the step that samples its sets.
        ppt: Steps of prompt pretraining.
        prompts: Steps of the prompts of classification tasks, from which others may start.
    """
    if config.prompts is None:
        return []
    steps = []
    for item in generation_tasks(config.prompts):
        for method in config.prompts.methods:
            for seed in config.prompts.seeds:
                tuned = _tuning_step(config, data, ppt, prompts, item, method, seed)
                steps += [tuned, _evaluation_step(config, data, tuned, item, method, seed)]
    return steps


def _tuning_step(
    config: PipelineConfig,
    data: Mapping[str, Step],
    ppt: Sequence[Step],
    prompts: Sequence[Step],
    item: DownstreamTask[GenerationTask, GenerationSection],
    method: str,
    seed: int,
) -> Step:
    assert config.prompts is not None
    settings, name = config.prompts.methods[method], f"{item.task.name}/{method}/{seed}"
    return make_step(
        config,
        f"tuned_prompts/{name}",
        kind="tuned_prompts",
        run="stages.generation.tuning.stage:run",
        config=GenerationTuningConfig(
            task=TargetTask.of(item.task),
            backbone=config.language_model,
            prompt=PromptConfig.of(settings),
            training=settings.training or config.prompts.training,
            seed=derive_seed(config.seed, f"prompts/{name}"),
        ),
        inputs={"data": data[item.task.name], **upstream_prompts(config, item, settings, ppt, prompts, seed)},
        resources=config.prompts.resources,
        seed=str(seed),
        task=item.task.name,
        method=method,
    )


def _evaluation_step(
    config: PipelineConfig,
    data: Mapping[str, Step],
    tuned: Step,
    item: DownstreamTask[GenerationTask, GenerationSection],
    method: str,
    seed: int,
) -> Step:
    assert config.prompts is not None
    row = f"prompts/{item.task.name}/{method}"
    return make_step(
        config,
        f"{row}/{seed}",
        kind="prompts",
        run="stages.generation.evaluation.stage:run",
        config=GenerationEvaluationConfig(task=item.task, backbone=config.language_model),
        inputs={"data": data[item.task.name], "tuned": tuned},
        resources=config.prompts.resources,
        row=row,
        seed=str(seed),
        task=item.task.name,
        method=method,
    )
