"""Steps of the learning curve: the recipe's own steps again, with fewer labeled texts.

learning_curve/<shots>/<seed>/data     a subset of the labeled texts; the other splits are unchanged
learning_curve/<shots>/<seed>/...      baseline, sub-models, soft_labels and student on them, as far as required
learning_curve/picture                 plots all of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from cluster.steps.step import Resources, Step, Upstream
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import CurveMethod, LearningCurveSection, PetMember, PetSection
from stages.common.seeds import derive_seed
from stages.learning_curve.config import LearningCurveConfig
from stages.learning_curve.train_subsets.config import TrainSubsetConfig

StepsOfMethods = Callable[[PipelineConfig, Step], dict[CurveMethod, Step]]
"""From a recipe and its data step to the last step of each method."""


def learning_curve_steps(config: PipelineConfig, data: Step, way: StepsOfMethods, control: Resources) -> list[Step]:
    """All steps of the curve, the picture last; none where the recipe does not ask for it.

    Args:
        config: The recipe.
        data: The data step of its own task.
        way: Makes the steps of a recipe.
        control: What steps get that compute next to nothing.
    """
    section = config.learning_curve
    if section is None:
        return []
    measured: list[tuple[str, Step]] = []
    found: dict[str, Step] = Field({})
    for shots in section.shots:
        for seed in section.seeds:
            prefix = f"learning_curve/{shots}/{seed}"
            subset = _subset(config, prefix, shots, seed, data, control)
            made = way(_smaller(config, section, seed), subset)
            for method in section.methods:
                measured.append((method, _with_prefix(made[method], subset, prefix, found)))
    return [*found.values(), _plot(measured, control)]


def _subset(config: PipelineConfig, prefix: str, shots: int, seed: int, data: Step, control: Resources) -> Step:
    chosen = derive_seed(config.seed, "learning_curve", seed)
    return Step(
        name=f"{prefix}/data",
        run="stages.learning_curve.train_subsets.stage:run",
        config=TrainSubsetConfig(labels=config.task.labels, shots=shots, seed=chosen),
        inputs={"data": data},
        resources=control,
    )


def _smaller(config: PipelineConfig, section: LearningCurveSection, seed: int) -> PipelineConfig:
    """The recipe with one sub-model a pattern, one student and one baseline; another seed gives them other starts."""
    once = _once(config.pet, section)
    parts: dict[str, Any] = {
        "pet": once.model_copy(update={"patterns": section.patterns or config.pet.patterns}),
        "distill": config.distill.model_copy(update={"seeds": config.distill.seeds[:1]}),
        "baseline": config.baseline and config.baseline.model_copy(update={"seeds": config.baseline.seeds[:1]}),
        "members": {
            name: _once(member, section) if isinstance(member, PetMember) else member
            for name, member in config.members.items()
            if name in section.members
        },
        "seed": derive_seed(config.seed, "learning_curve", seed),
    }
    return config.model_copy(update=parts)


def _once(pet: PetSection, section: LearningCurveSection) -> PetSection:
    """Sub-models of one seed."""
    return pet.model_copy(update={"seeds": pet.seeds[:1], "ipet": pet.ipet if section.ipet else None})


def _with_prefix(step: Step, subset: Step, prefix: str, found: dict[str, Step]) -> Step:
    """A step that reads the subset, under a name of its own, with all between the two; `found` gets them, upstream
    first. What does not read the subset, such as a pretrained prompt, stays the step that it is.
    """
    if step is subset:
        return found.setdefault(subset.name, subset)
    name = f"{prefix}/{step.name}"
    if name in found:
        return found[name]
    inputs: dict[str, Upstream] = Field({})
    for role, item in step.inputs.items():
        if isinstance(item, tuple):
            inputs[role] = tuple(_with_prefix(one, subset, prefix, found) for one in item)
        else:
            inputs[role] = _with_prefix(item, subset, prefix, found)
    moved = replace(step, name=name, inputs=inputs)
    if not any(one.name.startswith(f"{prefix}/") for one in moved.upstream()):
        return step
    return found.setdefault(name, moved)


def _plot(measured: Sequence[tuple[str, Step]], control: Resources) -> Step:
    return Step(
        name="learning_curve/picture",
        run="stages.learning_curve.stage:run",
        config=LearningCurveConfig(methods=tuple(method for method, _ in measured)),
        inputs={"measured": tuple(step for _, step in measured)},
        resources=control,
    )
