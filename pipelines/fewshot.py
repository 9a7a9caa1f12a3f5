"""THE DAG: what a recipe runs, readable from top to bottom.

data/<task> ─┬─ verbalizer/<pattern> (before all that uses the pattern, where words are searched for)
             ├─ zero_shot/<pattern>, priming/<pattern>/<seed> ───────────────────┐
             ├─ pet/<pattern>/<seed> ─ pet/g<k>/... ─┐                           │
             ├─ probe/<member> ──────────────────────┴ soft_labels (and shards) ─ distill/<seed>
             ├─ baseline/<seed> ─────────────────────────────────────────────────┼─ report
ppt/<format>─┴─ prompts/<task>/<method>/<seed> ──────────────────────────────────┘

ppt_examples/<format> comes before ppt/<format> where a corpus is read by many workers. learning_curve/... is the same
once more with fewer labels (pipelines/steps/curve_steps.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from cluster.step import Resources, Step
from pipelines import report
from pipelines.config import PipelineConfig
from pipelines.schema.curve_section import CurveMethod
from pipelines.steps import annotated
from pipelines.steps.curve_steps import curve
from pipelines.steps.member_steps import group_of, members, untrained, verbalizers
from pipelines.steps.pretraining_steps import pretraining
from pipelines.steps.prompt_steps import prompts, starts
from pipelines.steps.shard_steps import labelled_shards
from stages import baseline, distillation, soft_labels, splits
from stages.seeds import derive_seed
from stages.splits import DataConfig
from stages.tasks import Task
from stages.texts import assets

CONTROL = Resources(cpus=0.5)
"""Steps that compute next to nothing."""


def steps(config: PipelineConfig, dropped: Collection[str] = ()) -> list[Step]:
    """Every step of a recipe, upstream before downstream; of those that are ready, the first are started first.

    So the longest way, from sub-models to students, comes before what only fills the gaps. `dropped` names members
    that the ensemble does without (see pipelines/steps/quorum.py).
    """
    data = {task.name: _split(config, task, sets) for task, sets, _ in config.datasets.values()}
    data |= annotated.data_steps(config, CONTROL)
    main = data[config.task.name]
    words = verbalizers(config, main)
    examples, ppt = pretraining(config)
    found = members(config, main, words, ppt)
    voting = tuple(step for step in found.voting if step.name not in dropped)
    labels = _soft_labels(config, main, voting, tuple(sorted(dropped)))
    shards = (labelled_shards(config, config.shards, voting),) if config.shards else ()
    students = [_student(config, seed, main, labels, shards) for seed in config.distill.seeds]
    baselines = [_baseline(config, seed, main) for seed in (config.baseline.seeds if config.baseline else ())]
    before = untrained(config, main, words)
    fewer = curve(config, main, partial(_way, ppt=ppt), CONTROL)
    tuned, together = prompts(config, data, ppt)
    tuned += annotated.prompt_steps(config, data, ppt)
    by_urgency = (
        *words.values(), *examples, *ppt, *found.together, *found.earlier, *voting, labels, *shards, *students,
        *together, *tuned, *before, *baselines, *fewer,
    )  # fmt: skip
    measured = (
        *data.values(), *words.values(), *baselines, *before, *found.earlier, *voting, labels, *students, *ppt, *tuned,
        *fewer[-1:],
    )  # fmt: skip
    return [*data.values(), *by_urgency, _report(config, measured)]


def _way(config: PipelineConfig, data: Step, ppt: Sequence[Step]) -> dict[CurveMethod, Step]:
    """The last step of each method that the curve of accuracy against labels may measure."""
    voting = members(config, data, verbalizers(config, data), ppt).voting
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
        run="stages.splits:run",
        config=splits.Config(data=data, labels=task.labels, fields=task.fields, seed=derive_seed(config.seed, name)),
        assets={key: assets.identity(source.asset) for key, source in data.sources.items()},
        resources=CONTROL,
    )


def _soft_labels(config: PipelineConfig, data: Step, voting: tuple[Step, ...], dropped: tuple[str, ...]) -> Step:
    return Step(
        name="soft_labels",
        run="stages.soft_labels:run",
        config=soft_labels.Config(
            labels=config.task.labels,
            ensemble=config.ensemble.mixing,
            members=tuple(step.name for step in voting),
            groups=tuple(group_of(step.name) for step in voting),
            dropped=dropped,
        ),
        inputs={"data": data, "members": voting},
        resources=CONTROL,
    )


def _student(config: PipelineConfig, seed: int, data: Step, labels: Step, shards: tuple[Step, ...] = ()) -> Step:
    name = f"distill/{seed}"
    return Step(
        name=name,
        run="stages.distillation:run",
        config=distillation.Config(
            labels=config.task.labels,
            fields=config.task.fields,
            student=config.student,
            temperature=config.distill.temperature,
            gold_share=config.distill.gold_share,
            keep_share=config.distill.keep_share,
            min_confidence=config.distill.min_confidence,
            num_taught=config.shards.num_taught if config.shards else None,
            loop=config.distill.loop,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data, "soft_labels": labels, **({"shards": shards[0]} if shards else {})},
        assets={"student": assets.identity(config.student.asset)},
        resources=config.distill.resources,
    )


def _baseline(config: PipelineConfig, seed: int, data: Step) -> Step:
    assert config.baseline is not None
    name = f"baseline/{seed}"
    return Step(
        name=name,
        run="stages.baseline:run",
        config=baseline.Config(
            labels=config.task.labels,
            fields=config.task.fields,
            student=config.student,
            loop=config.baseline.loop,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data},
        assets={"student": assets.identity(config.student.asset)},
        resources=config.baseline.resources,
    )


def _report(config: PipelineConfig, measured: tuple[Step, ...]) -> Step:
    return Step(
        name="report",
        run="pipelines.report:run",
        config=report.Config(
            recipe=config.name,
            task=config.task.name,
            steps=tuple(step.name for step in measured),
            starts=starts(config),
            seed=derive_seed(config.seed, "report"),
        ),
        inputs={"measured": measured},
        resources=CONTROL,
    )
