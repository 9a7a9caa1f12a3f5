"""The rule about downstream tasks that are not classification. Raises `InputError` with the dotted key."""

from __future__ import annotations

from typing import Any

from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import errors_located_in
from pipelines.schema.sections.prompts import DownstreamTask, downstream_tasks
from stages.common.errors import InputError
from stages.common.prompts.config import PromptConfig, check_fit, check_fits_token_level
from stages.generation.config import GenerationTask, check_fits_generation
from stages.regression.config import PATTERN, RegressionTask


def check_downstream_tasks(config: PipelineConfig) -> None:
    """Downstream tasks have their own names, methods that suit them, and the pretrained prompts that these need."""
    if config.prompts is None:
        return
    methods, names = config.prompts.methods, set(config.datasets)
    for item in downstream_tasks(config.prompts):
        if item.task.name in names:
            raise InputError(f"two tasks have the name {item.task.name}.", "Rename one of them.", key=item.key)
        names.add(item.task.name)
        for name, method in methods.items():
            with errors_located_in(f"prompts.methods.{name}"):
                _check_fits(method, item)
        if config.ppt and any(method.uses_ppt for method in methods.values()):
            with errors_located_in(f"{item.key}.format"):
                config.pretrained_for(item)


def _check_fits(method: PromptConfig, item: DownstreamTask[Any, Any]) -> None:
    """Checks that a method suits a task.

    Raises:
        InputError: with the key of the setting of the method.
    """
    if isinstance(item.task, GenerationTask):
        check_fits_generation(method, item.task)
    elif isinstance(item.task, RegressionTask):
        check_fit(method, item.task.ends.pattern(PATTERN))
        if item.task.words is None and method.head != "linear":
            raise InputError(
                f"the task {item.task.name} has no words for its lowest and highest value.",
                f"Set head: linear for this method, or {item.key}.words: [low, high].",
                key="head",
            )
    else:
        check_fits_token_level(method)
