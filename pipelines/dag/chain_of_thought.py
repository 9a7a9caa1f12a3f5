"""Steps of chain of thought: chain_of_thought/<method>/<seed>."""

from __future__ import annotations

from cluster.steps.step import Step
from pipelines.dag.steps import make_step
from pipelines.schema.chain_of_thought_rules import method_config
from pipelines.schema.config import PipelineConfig


def chain_of_thought_steps(config: PipelineConfig, data: Step) -> list[Step]:
    """Returns a step per method and seed. A method without sampling has the first seed only."""
    section = config.chain_of_thought
    if section is None:
        return []
    return [
        make_step(
            config,
            f"chain_of_thought/{name}/{seed}",
            kind="chain_of_thought",
            run="stages.chain_of_thought.stage:run",
            config=method_config(config, name),
            inputs={"data": data},
            resources=section.resources,
            row=f"chain_of_thought/{name}",
            method=name,
            seed=str(seed),
        )
        for name, method in section.methods.items()
        for seed in (section.seeds if method.is_sampled else section.seeds[:1])
    ]
