"""What a recipe needs so that a search can compare settings of its prompts, and which settings suit it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pipelines.preflight.models import bare_tokenizer, check_lengths, check_prompts
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from pipelines.search.space import Candidate, searched_task, set_fields
from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import Example, label_indices
from stages.common.models.backbones.folders import backbone_folder
from stages.common.models.model_files import family_of
from stages.common.training.cross_validation import stratified_folds


def check_searchable(config: PipelineConfig) -> None:
    """Checks that a recipe tunes prompts for one classification task, and that no other prompt decides how well.

    Raises:
        InputError: with the dotted key.
    """
    prompts = config.prompts
    if prompts is None:
        raise InputError(
            "a search tries settings of prompts, but the recipe has none.",
            "Add a section: prompts: {tasks: [{pattern: NAME}], methods: {tuning: {}}, "
            "training: {learning_rate: 0.003, steps: 100}}.",
            key="prompts",
        )
    for key in ("token_classification", "question_answering", "generation", "regression"):
        if getattr(prompts, key):
            raise InputError(
                "a search compares settings by the accuracy of a classification task, and this is another kind of task "
                "with the same methods.",
                f"Leave it out: -o 'prompts.{key}={{}}'.",
                key=f"prompts.{key}",
            )
    if len(prompts.tasks) > 1:
        names = ", ".join(config.prompt_task(item)[0].name for item in prompts.tasks)
        raise InputError(
            f"a search tunes the settings for one task, but the recipe has {len(prompts.tasks)}: {names}.",
            f"Keep one: -o 'prompts.tasks=[{{pattern: {prompts.tasks[0].pattern}}}]'.",
            key="prompts.tasks",
        )
    for name, method in prompts.methods.items():
        needed = "transfer" if method.transfer else "sources" if set(method.sources) - {"ppt"} else ""
        if needed:
            raise InputError(
                "this method starts from a trained prompt of another task, but a search tunes the settings for one.",
                f"Remove {needed}, or leave the method out.",
                key=f"prompts.methods.{name}.{needed}",
            )


def check_enough_labels(config: PipelineConfig, train_set: Sequence[Example], num_folds: int) -> None:
    """Checks that each label is learned and predicted in the cross-validation.

    Args:
        config: The recipe.
        train_set: Labeled examples of the task.
        num_folds: Number of folds.

    Raises:
        InputError: a label has less than two examples, or all examples belong together.
    """
    task, _ = config.prompt_task(searched_task(config))
    counts = Counter(item.label for item in train_set)
    for label in task.labels:
        if counts[label] < 2:
            raise InputError(
                f"a search cross-validates on the labeled examples, but the label {label!r} has {counts[label]}.",
                "Add labeled examples, at least two per label: raise data.shots, or add rows to data.train.",
                key="data",
            )
    groups = group_numbers(train_set, task.fields)
    if stratified_folds(label_indices(train_set, task.labels), num_folds, groups) is None:
        raise InputError(
            "a search cross-validates on the labeled examples, but all of them are in one group or have one text.",
            "Add labeled examples of other groups.",
            key="data",
        )


def candidate_values(config: PipelineConfig, candidate: Candidate) -> dict[str, Any]:
    """Returns the recipe with a candidate as the only method of its prompts."""
    values = set_fields(config)
    prompts = values["prompts"]
    method = set_fields(candidate.prompt) | {"training": set_fields(candidate.training)}
    prompts["methods"] = {candidate.method: prompts["methods"][candidate.method] if candidate.is_own else method}
    prompts["tasks"][0]["pattern"] = candidate.pattern
    if not candidate.prompt.can_be_batched:
        prompts.pop("batched_training", None)
    return values


def check_candidate(config: PipelineConfig, candidate: Candidate) -> None:
    """Checks that the recipe with a candidate obeys all rules, and that its backbone supports the method.

    Raises:
        InputError: it does not.
    """
    try:
        changed = load_config(candidate_values(config, candidate))
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"], "Use another setting.") from error
    backbone = changed.language_model
    check_lengths(changed)
    check_prompts(changed, family_of(backbone_folder(backbone)), bare_tokenizer(backbone))
