"""Rules about prompts that use trained prompts of other tasks: they start from one (SPoT), or mix several (ATTEMPT).

They raise `InputError` with the dotted key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import (
    PromptMethod,
    PromptsSection,
    generation_tasks,
    regression_tasks,
    token_level_tasks,
)
from stages.common.errors import InputError
from stages.common.patterns.syntax import Pattern
from stages.common.prompts.config import TransferConfig
from stages.regression.config import PATTERN


def check_transfer(config: PipelineConfig) -> None:
    """A prompt that others use is that of a classification task, has vectors, and suits them."""
    for key, section in config.pet_sections.items():
        for name in ("transfer", "sources"):
            if getattr(section.prompt, name):
                raise InputError(
                    "sub-models use no prompt of another task.",
                    f"Remove {name}, or move the method to prompts.methods.",
                    key=f"{key}.prompt.{name}",
                )
    prompts = config.prompts
    if prompts is None:
        return
    for name, method in prompts.methods.items():
        if method.transfer is not None:
            _check_start(config, prompts, method, method.transfer, f"prompts.methods.{name}.transfer")
    for name, method in prompts.methods.items():
        for number, source in enumerate(method.sources):
            _check_source(config, prompts, method, source, f"prompts.methods.{name}.sources.{number}")


def _check_start(
    config: PipelineConfig, prompts: PromptsSection, method: PromptMethod, transfer: TransferConfig, key: str
) -> None:
    """A prompt starts from one at the same place of the model that starts from none."""
    source = _trained_method(config, prompts, transfer, key, lambda item: item.transfer is None)
    if source.transfer is not None:
        raise InputError(
            f"the method {transfer.method!r} starts from another prompt itself.",
            _known(prompts, lambda item: item.transfer is None),
            key=f"{key}.method",
        )
    if source.is_deep != method.is_deep or (method.is_deep and source.places != method.places):
        raise InputError(
            f"the vectors of {transfer.method!r} are at another place of the model.",
            "Set the same method and prefix_at for both.",
            key=f"{key}.method",
        )


def _check_source(
    config: PipelineConfig, prompts: PromptsSection, method: PromptMethod, source: TransferConfig | str, key: str
) -> None:
    """A source of a mixture is in the input, and has as many vectors as the mixture in every task."""
    if not isinstance(source, TransferConfig):
        if config.ppt is None:
            raise InputError(
                "ppt is the pretrained prompt, but the recipe has no section ppt.",
                "Add ppt: {...}, or remove this source.",
                key=key,
            )
        length = config.ppt.num_virtual_tokens
    else:
        trained = _trained_method(config, prompts, source, key, lambda item: not item.is_deep)
        if trained.is_deep:
            raise InputError(
                f"a mixture has vectors in the input, but those of {source.method!r} are keys and values.",
                _known(prompts, lambda item: not item.is_deep),
                key=f"{key}.method",
            )
        length = _num_vectors(config, prompts, trained, _patterns(config, prompts)[source.task])
    for task, pattern in _patterns(config, prompts).items():
        if (own := _num_vectors(config, prompts, method, pattern)) != length:
            raise InputError(
                f"this source has {length} vectors, but the mixture has {own} for the task {task}.",
                "Give both the same number of vectors.",
                key=key,
            )


def _trained_method(
    config: PipelineConfig,
    prompts: PromptsSection,
    wanted: TransferConfig,
    key: str,
    suits: Callable[[PromptMethod], bool],
) -> PromptMethod:
    """Returns the method that trains a prompt which another one uses. `suits`: methods to propose in errors."""
    tasks = [config.prompt_task(item)[0].name for item in prompts.tasks]
    if wanted.task not in tasks:
        known = f"Use one of: {', '.join(tasks)}." if tasks else "Add it to prompts.tasks."
        raise InputError(f"prompts.tasks has no task {wanted.task!r}.", known, key=f"{key}.task")
    method = prompts.methods.get(wanted.method)
    if method is None:
        raise InputError(f"there is no method {wanted.method!r}.", _known(prompts, suits), key=f"{key}.method")
    if method.lora is not None:
        raise InputError(
            f"the vectors of {wanted.method!r} need its adapters.", "Use a method without lora.", key=f"{key}.method"
        )
    if method.reads_text:
        raise InputError(
            f"the vectors of {wanted.method!r} depend on the text.", _known(prompts, suits), key=f"{key}.method"
        )
    return method


def _known(prompts: PromptsSection, suits: Callable[[PromptMethod], bool]) -> str:
    """Returns the remedy that names the methods whose prompts can be used."""
    names = [
        name
        for name, item in prompts.methods.items()
        if item.prompt_length and item.lora is None and not item.reads_text and suits(item)
    ]
    return f"Use one of: {', '.join(names)}." if names else "Add a method of prompt tuning that starts from no other."


def _patterns(config: PipelineConfig, prompts: PromptsSection) -> dict[str, Pattern | None]:
    """Task -> the pattern of its prompts. None: it has none, or one that does not exist, which is an error of
    `check_prompt_tasks`.
    """

    def found() -> Iterator[tuple[str, Pattern | None]]:
        for item in prompts.tasks:
            task, _ = config.prompt_task(item)
            yield task.name, task.pattern(item.pattern) if item.pattern in task.patterns else None
        for words in token_level_tasks(prompts):
            yield words.task.name, None
        for texts in generation_tasks(prompts):
            yield texts.task.name, texts.task.input_pattern
        for numbers in regression_tasks(prompts):
            yield numbers.task.name, numbers.task.ends.pattern(PATTERN)

    return dict(found())


def _num_vectors(config: PipelineConfig, prompts: PromptsSection, method: PromptMethod, pattern: Pattern | None) -> int:
    """Returns the number of vectors of the prompts of a method under a pattern."""
    if pattern is not None and pattern.has_soft_blocks:
        return sum(block.num_virtual_tokens for block in pattern.soft_blocks)
    if method.transfer is not None:
        source = prompts.methods[method.transfer.method]
        return _num_vectors(config, prompts, source, _patterns(config, prompts)[method.transfer.task])
    if method.init == "ppt" and config.ppt is not None:
        return config.ppt.num_virtual_tokens
    return method.num_virtual_tokens
