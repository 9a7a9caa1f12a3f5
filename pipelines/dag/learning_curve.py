"""Steps of the learning curve: the steps of the recipe again, with fewer labeled examples.

learning_curve/<shots>/<seed>/data     a subset of the labeled examples; the other sets are unchanged
learning_curve/<shots>/<seed>/...      baseline, sub-models, soft_labels and student on it, as far as they are needed
learning_curve/picture                 plots all of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.steps.step import Step, Upstream
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import CurveMethod, LearningCurveSection, PetMember, PetSection
from stages.common.seeds import derive_seed
from stages.learning_curve.config import LearningCurveConfig
from stages.learning_curve.train_subsets.config import TrainSubsetConfig

StepsOfMethods = Callable[[PipelineConfig, Step], dict[CurveMethod, Step]]
"""From a recipe and its data step to the last step of each method."""


def learning_curve_steps(config: PipelineConfig, data: Step, steps_of_methods: StepsOfMethods) -> list[Step]:
    """Returns all steps of the learning curve, the plot last; none if the recipe has no learning curve.

    Args:
        config: The recipe.
        data: The data step of the recipe's task.
        steps_of_methods: Makes the steps of a recipe.
    """
    section = config.learning_curve
    if section is None:
        return []
    measured: list[tuple[str, Step]] = []
    steps: dict[str, Step] = {}
    for shots in section.shots:
        for seed in section.seeds:
            prefix = f"learning_curve/{shots}/{seed}"
            subset = _subset(config, prefix, shots, seed, data)
            ends = steps_of_methods(_smaller(config, section, seed), subset)
            for method in section.methods:
                measured.append((method, _with_prefix(ends[method], subset, prefix, steps)))
    return [*steps.values(), _plot(config, measured)]


def _subset(config: PipelineConfig, prefix: str, shots: int, seed: int, data: Step) -> Step:
    sample_seed = derive_seed(config.seed, "learning_curve", seed)  # without the shots: smaller sets in larger ones
    return make_step(
        config,
        f"{prefix}/data",
        kind="curve_point",
        run="stages.learning_curve.train_subsets.stage:run",
        config=TrainSubsetConfig(labels=config.task.labels, shots=shots, seed=sample_seed),
        inputs={"data": data},
    )


def _smaller(config: PipelineConfig, section: LearningCurveSection, seed: int) -> PipelineConfig:
    """Returns the recipe with one sub-model per pattern, one seed of students and baselines, and another seed."""
    pet = config.pet and _one_seed(config.pet, section)
    parts: dict[str, Any] = {
        "pet": pet and pet.model_copy(update={"patterns": section.patterns or pet.patterns}),
        "distill": config.distill.model_copy(update={"seeds": config.distill.seeds[:1]}),
        "baseline": config.baseline and config.baseline.model_copy(update={"seeds": config.baseline.seeds[:1]}),
        "members": {
            name: _one_seed(member, section) if isinstance(member, PetMember) else member
            for name, member in config.members.items()
            if name in section.members
        },
        "seed": derive_seed(config.seed, "learning_curve", seed),
    }
    return config.model_copy(update=parts)


def _one_seed(pet: PetSection, section: LearningCurveSection) -> PetSection:
    generations = {} if section.ipet else {"ipet": None, "self_training": None}
    return pet.model_copy(update={"seeds": pet.seeds[:1], **generations})


def _with_prefix(step: Step, subset: Step, prefix: str, steps: dict[str, Step]) -> Step:
    """Returns a step that reads the subset, with `prefix` in its name.

    Steps that do not read the subset, such as a pretrained prompt, are returned unchanged. `steps` collects the
    others, upstream first.
    """
    if step is subset:
        return steps.setdefault(subset.name, subset)
    name = f"{prefix}/{step.name}"
    if name in steps:
        return steps[name]
    inputs: dict[str, Upstream] = {}
    for role, item in step.inputs.items():
        if isinstance(item, tuple):
            inputs[role] = tuple(_with_prefix(one, subset, prefix, steps) for one in item)
        else:
            inputs[role] = _with_prefix(item, subset, prefix, steps)
    moved = replace(step, name=name, inputs=inputs, kind="curve_point")
    if not any(steps.get(item.name) is item for item in moved.upstream()):
        return step
    return steps.setdefault(name, moved)


def _plot(config: PipelineConfig, measured: Sequence[tuple[str, Step]]) -> Step:
    return make_step(
        config,
        "learning_curve/picture",
        kind="learning_curve",
        run="stages.learning_curve.stage:run",
        config=LearningCurveConfig(methods=tuple(method for method, _ in measured)),
        inputs={"measured": [step for _, step in measured]},
    )
