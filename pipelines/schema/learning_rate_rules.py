"""The rule about learning rates of parts. Raises `InputError` with the dotted key."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import FinetunedMember, ProbeMember
from pipelines.schema.sections.prompts import PromptMethod, token_level_tasks
from stages.common.errors import InputError
from stages.common.models.backbones.config import Tune
from stages.common.training.config import ParameterGroup, TrainingConfig

OF_STUDENTS: tuple[ParameterGroup, ...] = ("head", "backbone")
OF_TUNE: Mapping[Tune, tuple[ParameterGroup, ...]] = {"lora": ("lora",), "prompt": ("prompt",), "none": ()}
"""What a sub-model trains; all others train weights in the backbone."""


def check_learning_rates(config: PipelineConfig) -> None:
    """Each part with a learning rate is trained in its section."""
    for key, section in config.pet_sections.items():
        _check(section.training, OF_TUNE.get(section.tune, ("backbone",)), f"{key}.training")
        if students := section.self_training:
            for name in ("training", "finetuning"):
                trained = OF_TUNE.get(students.tune, ("backbone",))
                _check(getattr(students, name), trained, f"{key}.self_training.{name}")
    if config.ppt:
        _check(config.ppt.training, ("prompt",), "ppt.training")
    _check(config.distill.training, OF_STUDENTS, "distill.training")
    if config.baseline:
        _check(config.baseline.training, OF_STUDENTS, "baseline.training")
    for name, student in config.encoder_students.items():
        _check(student.training, OF_STUDENTS, f"students.{name}.training")
        _check(student.baseline_training, OF_STUDENTS, f"students.{name}.baseline_training")
    for name, member in config.members.items():
        if isinstance(member, FinetunedMember):
            _check(member.training, OF_STUDENTS, f"members.{name}.training")
        if isinstance(member, ProbeMember) and member.contrastive:
            _check(member.contrastive.training, ("backbone",), f"members.{name}.contrastive.training")
    if config.prompts:
        has_heads = bool(token_level_tasks(config.prompts))
        groups = {name: _groups_of(item, has_heads=has_heads) for name, item in config.prompts.methods.items()}
        _check(config.prompts.training, tuple(part for item in groups.values() for part in item), "prompts.training")
        for name, method in config.prompts.methods.items():
            _check(method.training, groups[name], f"prompts.methods.{name}.training")


def _groups_of(method: PromptMethod, *, has_heads: bool) -> tuple[ParameterGroup, ...]:
    parts: list[ParameterGroup] = ["prompt"] if method.prompt_length else []
    parts += ["lora"] if method.lora is not None else []
    return (*parts, "head") if has_heads or method.head == "linear" else tuple(parts)


def _check(training: TrainingConfig | None, trained: tuple[ParameterGroup, ...], key: str) -> None:
    for group in training.learning_rates if training else ():
        if group not in trained:
            known = f"Set one of: {', '.join(dict.fromkeys(trained))}." if trained else "Remove learning_rates."
            raise InputError(f"no {group} is trained here.", known, key=f"{key}.learning_rates.{group}")
