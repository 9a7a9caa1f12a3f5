"""What a recipe for multi-label classification cannot have. Each rule raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from stages.common.config import MULTI_LABEL, SINGLE_LABEL
from stages.common.errors import InputError

REMEDY_ONE_LABEL = f"or set task.problem_type: {SINGLE_LABEL}"


def check_problem_type(config: PipelineConfig) -> None:
    """A recipe with several labels per example has nothing that needs exactly one; others have no label separator."""
    for task, _, section in config.datasets.values():
        if section and task.problem_type == MULTI_LABEL:
            raise InputError(
                "soft prompts and instruction tuning predict one label per example.",
                f"Set {section}.task.problem_type: {SINGLE_LABEL}, or remove the task.",
                key=f"{section}.task.problem_type",
            )
    if config.task.problem_type == MULTI_LABEL:
        check_one_label_is_not_needed(config)
    else:
        check_no_thresholds(config)
        check_no_separators(config)


def check_one_label_is_not_needed(config: PipelineConfig) -> None:
    """Nothing in the recipe needs examples with exactly one label."""
    ensemble, data = config.ensemble, config.data
    needs_one_label = {
        **{f"{key}.asset": "a language model fills one label word into a pattern" for key in config.backbones},
        **{f"members.{name}": "a language model at an endpoint answers with one label" for name in config.llm_members},
        "data.pool": data.pool and "a pool is sampled by the label of each example",
        "data.annotated": data.annotated and "files of clozeline select have one label per text",
        "data.conflicts": data.conflicts == "soft" and "conflicts: soft makes one label of several rows uncertain",
        "unlabeled_shards": config.unlabeled_shards and "shards are labeled with one label per text",
        "learning_curve": config.learning_curve and "its points are examples per class",
        "class_weights": config.class_weights != "none" and "class_weights weighs examples by their one label",
        "ensemble.weights": ensemble.weights in ("held_out", "label_model")
        and f"weights: {ensemble.weights} compares members with a guess of one label",
        "ensemble.calibration": ensemble.calibration != "none" and "calibration is for language models",
        "ensemble.label_frequencies": ensemble.label_frequencies != "labeled"
        and "label_frequencies: unlabeled estimates frequencies whose sum is 1",
    }
    remedies = {
        "data.pool": "Set data.train, and data.test or data.test_size",
        "data.conflicts": "Set conflicts: drop",
        "ensemble.weights": "Set weights: uniform",
        "class_weights": "Remove it; label_bias: macro_f1 is for rare labels",
    }
    for key, reason in needs_one_label.items():
        if reason:
            raise InputError(
                f"task.problem_type is {MULTI_LABEL}, but {reason}.",
                f"{remedies.get(key, 'Remove it')}, {REMEDY_ONE_LABEL}.",
                key=key,
            )


def check_no_thresholds(config: PipelineConfig) -> None:
    """Only in multi-label classification, each label has a threshold."""
    if config.label_bias == "frequencies":
        raise InputError(
            "label_bias: frequencies is for several labels per example, "
            f"but task.problem_type is {config.task.problem_type}.",
            "Set label_bias: macro_f1, or remove it.",
            key="label_bias",
        )


def check_no_separators(config: PipelineConfig) -> None:
    """Only in multi-label classification, a cell has several labels."""
    for name, source in config.data.sources.items():
        if source.label_separator is not None:
            raise InputError(
                "label_separator is for several labels per example, "
                f"but task.problem_type is {config.task.problem_type}.",
                f"Set task.problem_type: {MULTI_LABEL}, or remove label_separator.",
                key=f"data.{name}.label_separator",
            )
