"""The DAG of a recipe: the steps of a run, from top to bottom.

data/<task> ─┬─ verbalizer/<pattern>, pattern_search/<pattern> (before all that uses the pattern, if there are searches)
             ├─ zero_shot/<pattern>, priming/<pattern>/<seed> ───────────────────┐
             ├─ chain_of_thought/<method>/<seed> ────────────────────────────────┤
             ├─ instruction_tuning/<seed> ─ instructed/<task>/<pattern>/<seed> ──┤
             ├─ knowledge_probing/<task>/<method>/<seed> ────────────────────────┤
             ├─ pet/<pattern>/<seed> ─ pet/g<k>/... ─┐                           │
             ├─ probe/<member> ──────────────────────┴ soft_labels (and soft_label_shards) ─ distill/<student>/<seed>
             ├─ baseline/<student>/<seed> ───────────────────────────────────────┼─ report
ppt/<format>─┴─ prompts/<task>/<method>/<seed> ──────────────────────────────────┘

Without unlabeled data there are no soft labels and no distillation. ppt_examples/<format> runs before ppt/<format> if
several workers read the corpus. learning_curve/... repeats the steps with fewer labels (`learning_curve.py`).

Plans a recipe: its steps, with the keys that its options ask for, compared with the store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import Plan, Selection, plan
from cluster.steps.step import Step
from cluster.store.base import Store
from pipelines.dag.chain_of_thought import chain_of_thought_steps
from pipelines.dag.generation import generation_data_steps, generation_prompt_steps
from pipelines.dag.instructions import instruction_steps, summary_steps
from pipelines.dag.knowledge_probing import fact_data_steps, probing_steps
from pipelines.dag.learning_curve import learning_curve_steps
from pipelines.dag.members import labeled_shards_step, member_steps, untrained_steps
from pipelines.dag.prompts import (
    downstream_data_steps,
    downstream_prompt_steps,
    init_kinds,
    pretraining_steps,
    prompt_steps,
)
from pipelines.dag.searches import search_steps
from pipelines.dag.steps import make_step
from pipelines.dag.students import baseline_step, baseline_steps, student_step, student_steps
from pipelines.kinds import KINDS
from pipelines.report.config import MeasuredStep, ReportConfig
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import CurveMethod
from stages.common.patterns.config import Task
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from stages.splits.config import DataConfig, SplitsConfig


def build_steps(config: PipelineConfig, dropped: Collection[str] = ()) -> list[Step]:
    """Returns every step of a recipe, sorted by urgency: of the steps that are ready, the first start first.

    The longest path, from sub-models to students, comes before steps that can run at any time. The order of the kinds
    in pipelines/kinds.py defines the urgency.

    Args:
        config: The recipe.
        dropped: Names of members that the ensemble leaves out; see pipelines/run/runner.py.
    """
    data = {task.name: _split(config, task, sets) for task, sets, _ in config.datasets.values()}
    data |= downstream_data_steps(config) | generation_data_steps(config) | fact_data_steps(config)
    main = data[config.task.name]
    searches = search_steps(config, main)
    examples, ppt = pretraining_steps(config)
    submodels = member_steps(config, main, searches, ppt)
    members = tuple(step for step in submodels.members if step.name not in dropped)
    taught: list[Step] = []
    if config.has_unlabeled:
        labels = _soft_labels(config, main, members, tuple(sorted(dropped)))
        shards = labeled_shards_step(config, config.unlabeled_shards, members) if config.unlabeled_shards else None
        taught += [labels, *([shards] if shards else [])]
        taught += student_steps(config, main, labels, shards)
    batched, prompts = prompt_steps(config, data, ppt)
    steps = [
        *data.values(),
        *searches.steps,
        *examples,
        *ppt,
        *submodels.batched,
        *submodels.earlier,
        *members,
        *taught,
        *batched,
        *prompts,
        *downstream_prompt_steps(config, data, ppt, prompts),
        *generation_prompt_steps(config, data, ppt, prompts),
        *untrained_steps(config, main, searches),
        *chain_of_thought_steps(config, main),
        *instruction_steps(config, data, searches),
        *probing_steps(config, data),
        *baseline_steps(config, main),
        *learning_curve_steps(config, main, partial(_steps_of_methods, ppt=ppt)),
    ]
    steps += summary_steps(config, data, steps)
    urgency = {kind: number for number, kind in enumerate(KINDS)}
    return [*sorted(steps, key=lambda step: urgency[step.kind]), _report(config, steps)]


def _steps_of_methods(config: PipelineConfig, data: Step, ppt: Sequence[Step]) -> dict[CurveMethod, Step]:
    """Returns the last step of each method that the learning curve can measure. It uses the first student."""
    student = next(iter(config.students))
    members = member_steps(config, data, search_steps(config, data), ppt).members
    labels = _soft_labels(config, data, members, ())
    steps: dict[CurveMethod, Step] = {
        "ensemble": labels,
        "student": student_step(config, student, config.distill.seeds[0], data, labels),
    }
    if config.baseline:
        steps["baseline"] = baseline_step(config, config.baseline, student, config.baseline.seeds[0], data)
    return steps


def _split(config: PipelineConfig, task: Task, data: DataConfig) -> Step:
    return make_step(
        config,
        f"data/{task.name}",
        kind="data",
        run="stages.splits.stage:run",
        config=SplitsConfig.of(task, data=data, fields=task.fields),
        task=task.name,
    )


def _soft_labels(config: PipelineConfig, data: Step, members: tuple[Step, ...], dropped: tuple[str, ...]) -> Step:
    return make_step(
        config,
        "soft_labels",
        kind="soft_labels",
        run="stages.soft_labels.stage:run",
        config=SoftLabelsConfig(
            labels=config.task.labels,
            problem_type=config.task.problem_type,
            ensemble=EnsembleConfig.of(config.ensemble),
            members=tuple(step.name for step in members),
            label_bias=config.label_bias,
            groups=tuple(step.labels["member"] for step in members),
            have_priors=tuple(KINDS[step.kind].has_prior for step in members),
            dropped=dropped,
        ),
        inputs={"data": data, "members": members},
        row="ensemble",
    )


def _report(config: PipelineConfig, steps: Sequence[Step]) -> Step:
    positions = {step.name: KINDS[step.kind].report_position for step in steps}
    measured = sorted(
        (step for step in steps if positions[step.name] is not None), key=lambda step: positions[step.name] or 0
    )
    return make_step(
        config,
        "report",
        kind="report",
        run="pipelines.report.stage:run",
        config=ReportConfig(
            recipe=config.name,
            task=config.task.name,
            problem_type=config.task.problem_type,
            measured=tuple(MeasuredStep(name=step.name, kind=step.kind, labels=dict(step.labels)) for step in measured),
            prompt_inits=init_kinds(config),
            label_bias=config.label_bias,
        ),
        inputs={"measured": measured},
    )


EXCLUDED_MODULES = (
    "pipelines.palette",
    "pipelines.report.leaderboard_plot",
    "stages.common.assets",
    "stages.common.figures",
    "stages.common.progress",
    "stages.common.training.throughput",
)
"""Modules that cannot change a result. They fetch files whose digests are in the key, draw plots, or report progress
and speed.
"""


def key_options(config: PipelineConfig) -> KeyOptions:
    """Returns which code and versions are part of the keys of a recipe."""
    return KeyOptions(excluded_modules=EXCLUDED_MODULES, has_versions=config.resources.versions_in_key)


def plan_recipe(
    config: PipelineConfig, store: Store, selection: Selection | None = None, *, dropped: Collection[str] = ()
) -> Plan:
    """Plans all steps of a recipe, or those of `selection`.

    Args:
        config: The recipe.
        store: Where results are.
        selection: Which steps to plan. Default: all.
        dropped: Members that the ensemble does without.

    Raises:
        GraphError: a name of the selection matches no step.
        FingerprintError: the key of a step cannot be computed.
    """
    return plan(build_steps(config, dropped), store, selection, key_options(config))
