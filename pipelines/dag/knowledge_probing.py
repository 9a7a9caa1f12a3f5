"""Steps of knowledge probing.

data/<task>                               the sets of facts
knowledge_probing/<task>/<method>/<seed>  the answers to the test facts, of all relations
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.steps.step import Step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from stages.generation.splits.config import GenerationSplitsConfig
from stages.knowledge_probing.config import RELATION, SUBJECT, FactPromptConfig, ProbingConfig


def fact_data_steps(config: PipelineConfig) -> dict[str, Step]:
    """Task name -> the step that samples its sets; empty without knowledge probing."""
    section = config.knowledge_probing
    if section is None:
        return {}
    return {
        section.task: make_step(
            config,
            f"data/{section.task}",
            kind="data",
            run="stages.generation.splits.stage:run",
            config=GenerationSplitsConfig(task=section.task, fields=(SUBJECT, RELATION), data=section.data),
            task=section.task,
        )
    }


def probing_steps(config: PipelineConfig, data: Mapping[str, Step]) -> list[Step]:
    """Returns one step per method and seed. Templates are not trained, so they have one seed."""
    section = config.knowledge_probing
    if section is None:
        return []
    steps = []
    for name, method in section.methods.items():
        row = f"knowledge_probing/{section.task}/{name}"
        for seed in section.seeds if method.is_trained else section.seeds[:1]:
            step = make_step(
                config,
                f"{row}/{seed}",
                kind="knowledge_probing",
                run="stages.knowledge_probing.stage:run",
                config=ProbingConfig.of(
                    section,
                    backbone=config.language_model,
                    prompt=FactPromptConfig.of(method),
                    training=(method.training or section.training) if method.is_trained else None,
                ),
                inputs={"data": data[section.task]},
                resources=section.resources,
                row=row,
                task=section.task,
                method=name,
                seed=str(seed),
            )
            steps.append(step)
    return steps
