"""The steps of the students: on soft labels (`distill/...`), and for comparison on labels only (`baseline/...`)."""

from __future__ import annotations

from cluster.steps.step import Step
from pipelines.dag.steps import LIGHTWEIGHT, make_step, supervised_task, text_task
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import BaselineSection, EncoderStudent, Student, StudentStage
from stages.baseline.config import BaselineConfig
from stages.common.config import Config
from stages.common.models.encoders.config import StudentConfig
from stages.common.seeds import derive_seed
from stages.distillation.config import DistillationConfig, SelectionSettings
from stages.distillation.tfidf.config import TfidfDistillationConfig
from stages.tfidf.config import TfidfConfig


def student_steps(config: PipelineConfig, data: Step, labels: Step, shards: Step | None) -> list[Step]:
    """Returns the steps of all students, teachers first. The first seed of a student teaches others."""
    steps: dict[tuple[str, int], Step] = {}

    def add(name: str) -> None:
        student = config.students[name]
        if student.teacher is not None:
            add(student.teacher)
        for seed in _seeds(student, config.distill.seeds):
            if (name, seed) not in steps:
                teacher = None if student.teacher is None else steps[student.teacher, config.distill.seeds[0]]
                steps[name, seed] = student_step(config, name, seed, data, labels, shards, teacher)

    for name in config.students:
        add(name)
    return list(steps.values())


def student_step(
    config: PipelineConfig,
    name: str,
    seed: int,
    data: Step,
    labels: Step,
    shards: Step | None = None,
    teacher: Step | None = None,
) -> Step:
    """Returns the step that trains a student with one seed.

    Args:
        config: The recipe.
        name: The student.
        seed: The seed of the recipe.
        data: The split step.
        labels: The soft-label step.
        shards: The step that labels shards, if any.
        teacher: The step of another student that teaches this one, if any.
    """
    section = config.students[name]
    examples = {
        **text_task(config),
        "label_unlabeled": _teaches(config, name) and seed == config.distill.seeds[0],
        "max_student_examples": config.unlabeled_shards.max_student_examples if config.unlabeled_shards else None,
        "seed": _seed_of(config, "distill", seed),
    }
    stage_config: Config
    if isinstance(section, EncoderStudent):
        run = "stages.distillation.stage:run"
        training = section.training_in("distill", config.distill)
        stage_config = DistillationConfig.of(
            config.distill, student=StudentConfig.of(section), training=training, **examples
        )
    else:
        run = "stages.distillation.tfidf.stage:run"
        selection = {key: getattr(config.distill, key) for key in SelectionSettings.model_fields}
        stage_config = TfidfDistillationConfig.of(section, **selection, **examples)
    return make_step(
        config,
        f"distill/{name}/{seed}",
        kind="distill",
        run=run,
        config=stage_config,
        inputs={"data": data, "soft_labels": labels, "teacher": teacher, "shards": shards},
        resources=config.distill.resources if isinstance(section, EncoderStudent) else LIGHTWEIGHT,
        row=f"student/{name}",
        student=name,
        model=section.kind,
        seed=str(seed),
    )


def baseline_steps(config: PipelineConfig, data: Step) -> list[Step]:
    """Returns the steps of all baselines; none if the recipe has no section `baseline`."""
    section = config.baseline
    if section is None:
        return []
    return [
        baseline_step(config, section, name, seed, data)
        for name, student in config.students.items()
        for seed in _seeds(student, section.seeds)
    ]


def baseline_step(config: PipelineConfig, section: BaselineSection, name: str, seed: int, data: Step) -> Step:
    """Returns the step that trains a student on the labeled data only, with one seed."""
    student = config.students[name]
    is_validated = section.num_folds is not None and seed == section.seeds[0]
    task = supervised_task(config, is_member=False) if is_validated else text_task(config)
    task["num_folds"] = section.num_folds if is_validated else None
    stage_config: Config
    if isinstance(student, EncoderStudent):
        run = "stages.baseline.stage:run"
        stage_config = BaselineConfig(
            student=StudentConfig.of(student),
            training=student.training_in("baseline", section),
            seed=_seed_of(config, "baseline", seed),
            **task,
        )
    else:
        run, stage_config = "stages.tfidf.stage:run", TfidfConfig.of(student, **task)
    return make_step(
        config,
        f"baseline/{name}/{seed}",
        kind="baseline",
        run=run,
        config=stage_config,
        inputs={"data": data},
        resources=section.resources if isinstance(student, EncoderStudent) else LIGHTWEIGHT,
        row=f"baseline/{name}",
        student=name,
        model=student.kind,
        seed=str(seed),
    )


def _seeds(student: Student, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the seeds of a student: the first one if nothing in it is random."""
    return seeds if isinstance(student, EncoderStudent) else seeds[:1]


def _teaches(config: PipelineConfig, name: str) -> bool:
    return any(student.teacher == name for student in config.students.values())


def _seed_of(config: PipelineConfig, stage: StudentStage, seed: int) -> int:
    """Returns the seed of a training run. It does not depend on the name of the student, which may be renamed."""
    return derive_seed(config.seed, f"{stage}/{seed}")
