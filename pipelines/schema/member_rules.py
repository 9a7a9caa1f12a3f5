"""Rules about the members of the ensemble. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.ensemble import ProbeMember
from stages.common.errors import InputError


def check_members(config: PipelineConfig) -> None:
    """The members fit each other and the rest of the recipe."""
    check_member_names(config)
    check_ipet_has_teachers(config)
    check_scaling_has_held_out_logits(config)
    check_label_bias_has_held_out_logits(config)
    check_cross_validation_trains_alone(config)
    check_llm_members(config)
    check_nli_members(config)
    check_probes(config)


def check_member_names(config: PipelineConfig) -> None:
    """No member has the same step names as a later generation of sub-models: `pet/g1/...`."""
    for number in range(1, config.pet.num_generations + 1 if config.pet else 1):
        key = f"members.g{number}"
        if key in config.pet_sections:
            raise InputError(
                f"steps of this member would have the names of generation {number} of pet.",
                "Rename the member.",
                key=key,
            )


def check_ipet_has_teachers(config: PipelineConfig) -> None:
    """iPET has at least two sub-models, which label data for each other."""
    for key, section in config.pet_sections.items():
        seeds = section.seeds if config.has_labels else section.seeds[:1]
        if section.ipet and len(config.patterns_of(section)) * len(seeds) < 2:
            raise InputError(
                "iPET needs two sub-models, which label data for each other.",
                "Add a pattern or a seed, or remove ipet.",
                key=f"{key}.ipet",
            )


def check_scaling_has_held_out_logits(config: PipelineConfig) -> None:
    """Members are scaled by logits of the model that labels the unlabeled data, not by those before training."""
    if config.ensemble.scaling != "held_out":
        return
    for key, section in config.pet_sections.items():
        if section.tune != "none" and section.num_folds is None:
            raise InputError(
                "ensemble.scaling: held_out needs held-out logits of the trained sub-models.",
                f"Set {key}.num_folds: 3, or set ensemble.scaling: none.",
                key=f"{key}.num_folds",
            )


def check_label_bias_has_held_out_logits(config: PipelineConfig) -> None:
    """A bias per label is fitted to logits of the trained classifiers, not to those before training."""
    if config.label_bias == "none":
        return
    for key, section in config.pet_sections.items() if config.has_unlabeled else ():
        if section.tune != "none" and section.num_folds is None:
            raise InputError(
                f"label_bias: {config.label_bias} needs held-out logits of the trained sub-models.",
                f"Set {key}.num_folds: 3, or remove label_bias.",
                key=f"{key}.num_folds",
            )
    if not config.has_unlabeled and config.baseline is not None and config.baseline.num_folds is None:
        raise InputError(
            f"label_bias: {config.label_bias} needs held-out logits of the baselines.",
            "Set baseline.num_folds: 4, or remove label_bias.",
            key="baseline.num_folds",
        )
    if not config.has_labels:
        raise InputError(
            f"label_bias: {config.label_bias} needs labeled examples.", "Remove label_bias.", key="label_bias"
        )


def check_cross_validation_trains_alone(config: PipelineConfig) -> None:
    """Cross-validation trains each sub-model on its own."""
    for key, section in config.pet_sections.items():
        if section.num_folds is not None and section.batched_training:
            raise InputError(
                "batched_training trains all sub-models once, without cross-validation.",
                "Remove num_folds or batched_training.",
                key=f"{key}.num_folds",
            )


def check_llm_members(config: PipelineConfig) -> None:
    """A language model at an endpoint describes labels of the task, and labels no shards."""
    for name, member in config.llm_members.items():
        _check_texts_of_labels(config, member.descriptions, f"members.{name}.descriptions")
        _check_labels_no_shards(config, name, "by models in files, not by an endpoint")


def check_nli_members(config: PipelineConfig) -> None:
    """The hypotheses of a model of natural language inference are about labels of the task; it labels no shards."""
    for name, member in config.nli_members.items():
        _check_texts_of_labels(config, member.label_phrases, f"members.{name}.label_phrases")
        _check_labels_no_shards(config, name, "by models that were trained here, not by a pretrained classifier")


def _check_texts_of_labels(config: PipelineConfig, texts: Mapping[str, str], key: str) -> None:
    """The texts of a member are about labels of the task."""
    if unknown := [label for label in texts if label not in config.task.labels]:
        raise InputError(
            f"the task has no label {unknown[0]!r}.", f"Use one of: {', '.join(config.task.labels)}.", key=key
        )


def _check_labels_no_shards(config: PipelineConfig, name: str, how: str) -> None:
    """`how`: by what shards are labeled."""
    if config.unlabeled_shards is not None:
        raise InputError(
            f"shards are labeled {how}.", "Remove this member, or unlabeled_shards.", key=f"members.{name}"
        )


def check_probes(config: PipelineConfig) -> None:
    """Only two texts are compared."""
    for name, member in config.members.items():
        if isinstance(member, ProbeMember) and member.pairs == "separate" and len(config.task.fields) < 2:
            raise InputError(
                f"two texts are compared, but the patterns have one field, {config.task.fields[0]!r}.",
                "Remove pairs, or add a field to the patterns.",
                key=f"members.{name}.pairs",
            )
