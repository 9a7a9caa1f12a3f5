"""The DAG of a recipe: what it runs, from top to bottom.

data/<task> ─┬─ verbalizer/<pattern> (before all that uses the pattern, if label words are searched for)
             ├─ zero_shot/<pattern>, priming/<pattern>/<seed> ───────────────────┐
             ├─ pet/<pattern>/<seed> ─ pet/g<k>/... ─┐                           │
             ├─ probe/<member> ──────────────────────┴ soft_labels (and shards) ─ distill/<seed>
             ├─ baseline/<seed> ─────────────────────────────────────────────────┼─ report
ppt/<format>─┴─ prompts/<task>/<method>/<seed> ──────────────────────────────────┘

ppt_examples/<format> runs before ppt/<format> if several workers read the corpus. learning_curve/... repeats the steps
with fewer labels (`learning_curve.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from cluster.steps.step import Resources, Step
from pipelines.dag import prompts
from pipelines.dag.learning_curve import learning_curve_steps
from pipelines.dag.members import labeled_shards_step, member_kind, member_steps, untrained_steps, verbalizer_steps
from pipelines.dag.pretraining import pretraining_steps
from pipelines.dag.prompts import init_kinds, prompt_steps
from pipelines.report.config import ReportConfig
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import CurveMethod
from stages.baseline.config import BaselineConfig
from stages.common.assets.cache import identity
from stages.common.patterns.config import Task
from stages.common.seeds import derive_seed
from stages.distillation.config import DistillationConfig
from stages.soft_labels.config import SoftLabelsConfig
from stages.splits.config import DataConfig, SplitsConfig

LIGHTWEIGHT = Resources(cpus=0.5)
"""Steps that compute next to nothing."""


def build_steps(config: PipelineConfig, dropped: Collection[str] = ()) -> list[Step]:
    """Every step of a recipe, upstream before downstream; of those that are ready, the first are started first.

    So the longest way, from sub-models to students, comes before what only fills the gaps. `dropped` names members
    that the ensemble does without (see pipelines/dag/quorum.py).
    """
    data = {task.name: _split(config, task, sets) for task, sets, _ in config.datasets.values()}
    data |= prompts.token_level_data_steps(config, LIGHTWEIGHT)
    main = data[config.task.name]
    words = verbalizer_steps(config, main)
    examples, ppt = pretraining_steps(config)
    found = member_steps(config, main, words, ppt)
    voting = tuple(step for step in found.members if step.name not in dropped)
    labels = _soft_labels(config, main, voting, tuple(sorted(dropped)))
    shards = (labeled_shards_step(config, config.unlabeled_shards, voting),) if config.unlabeled_shards else ()
    students = [_student(config, seed, main, labels, shards) for seed in config.distill.seeds]
    baselines = [_baseline(config, seed, main) for seed in (config.baseline.seeds if config.baseline else ())]
    before = untrained_steps(config, main, words)
    fewer = learning_curve_steps(config, main, partial(_steps_of_methods, ppt=ppt), LIGHTWEIGHT)
    tuned, together = prompt_steps(config, data, ppt)
    tuned += prompts.token_level_prompt_steps(config, data, ppt)
    by_urgency = (
        *words.values(), *examples, *ppt, *found.together, *found.earlier, *voting, labels, *shards, *students,
        *together, *tuned, *before, *baselines, *fewer,
    )  # fmt: skip
    measured = (
        *data.values(), *words.values(), *baselines, *before, *found.earlier, *voting, labels, *students, *ppt, *tuned,
        *fewer[-1:],
    )  # fmt: skip
    return [*data.values(), *by_urgency, _report(config, measured)]


def _steps_of_methods(config: PipelineConfig, data: Step, ppt: Sequence[Step]) -> dict[CurveMethod, Step]:
    """The last step of each method that the curve of accuracy against labels may measure."""
    voting = member_steps(config, data, verbalizer_steps(config, data), ppt).members
    labels = _soft_labels(config, data, voting, ())
    ends: dict[CurveMethod, Step] = {
        "ensemble": labels,
        "student": _student(config, config.distill.seeds[0], data, labels),
    }
    if config.baseline:
        ends["baseline"] = _baseline(config, config.baseline.seeds[0], data)
    return ends


def _split(config: PipelineConfig, task: Task, data: DataConfig) -> Step:
    name = f"data/{task.name}"
    return Step(
        name=name,
        run="stages.splits.stage:run",
        config=SplitsConfig(data=data, labels=task.labels, fields=task.fields, seed=derive_seed(config.seed, name)),
        assets={key: identity(source.asset) for key, source in data.sources.items()},
        resources=LIGHTWEIGHT,
    )


def _soft_labels(config: PipelineConfig, data: Step, voting: tuple[Step, ...], dropped: tuple[str, ...]) -> Step:
    return Step(
        name="soft_labels",
        run="stages.soft_labels.stage:run",
        config=SoftLabelsConfig(
            labels=config.task.labels,
            ensemble=config.ensemble.mixing,
            members=tuple(step.name for step in voting),
            groups=tuple(member_kind(step.name) for step in voting),
            dropped=dropped,
        ),
        inputs={"data": data, "members": voting},
        resources=LIGHTWEIGHT,
    )


def _student(config: PipelineConfig, seed: int, data: Step, labels: Step, shards: tuple[Step, ...] = ()) -> Step:
    name = f"distill/{seed}"
    return Step(
        name=name,
        run="stages.distillation.stage:run",
        config=DistillationConfig(
            labels=config.task.labels,
            fields=config.task.fields,
            student=config.student,
            temperature=config.distill.temperature,
            gold_weight=config.distill.gold_weight,
            keep_fraction=config.distill.keep_fraction,
            min_confidence=config.distill.min_confidence,
            max_student_examples=config.unlabeled_shards.max_student_examples if config.unlabeled_shards else None,
            training=config.distill.training,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data, "soft_labels": labels, **({"shards": shards[0]} if shards else {})},
        assets={"student": identity(config.student.asset)},
        resources=config.distill.resources,
    )


def _baseline(config: PipelineConfig, seed: int, data: Step) -> Step:
    assert config.baseline is not None
    name = f"baseline/{seed}"
    return Step(
        name=name,
        run="stages.baseline.stage:run",
        config=BaselineConfig(
            labels=config.task.labels,
            fields=config.task.fields,
            student=config.student,
            training=config.baseline.training,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data},
        assets={"student": identity(config.student.asset)},
        resources=config.baseline.resources,
    )


def _report(config: PipelineConfig, measured: tuple[Step, ...]) -> Step:
    return Step(
        name="report",
        run="pipelines.report.stage:run",
        config=ReportConfig(
            recipe=config.name,
            task=config.task.name,
            steps=tuple(step.name for step in measured),
            prompt_inits=init_kinds(config),
            seed=derive_seed(config.seed, "report"),
        ),
        inputs={"measured": measured},
        resources=LIGHTWEIGHT,
    )
