"""The rule about prompts that start from those of another task (SPoT). Raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import PromptMethod
from stages.common.errors import InputError
from stages.common.prompts.config import TransferConfig


def check_transfer(config: PipelineConfig) -> None:
    """A prompt starts from one of a classification task, at the same place of the model, that starts from none."""
    for key, section in config.pet_sections.items():
        if section.prompt.transfer is not None:
            raise InputError(
                "sub-models start from no prompt of another task.",
                "Remove transfer, or move the method to prompts.methods.",
                key=f"{key}.prompt.transfer",
            )
    if config.prompts is None:
        return
    tasks = [config.prompt_task(item)[0].name for item in config.prompts.tasks]
    for name, method in config.prompts.methods.items():
        if method.transfer is None:
            continue
        key = f"prompts.methods.{name}.transfer"
        if method.transfer.task not in tasks:
            known = f"Use one of: {', '.join(tasks)}." if tasks else "Add it to prompts.tasks."
            raise InputError(f"prompts.tasks has no task {method.transfer.task!r}.", known, key=f"{key}.task")
        _check_source(config.prompts.methods, name, method.transfer, f"{key}.method")


def _check_source(methods: dict[str, PromptMethod], name: str, transfer: TransferConfig, key: str) -> None:
    source = methods.get(transfer.method)
    others = [other for other, item in methods.items() if item.transfer is None and item.prompt_length]
    remedy = f"Use one of: {', '.join(others)}." if others else "Add a method without transfer."
    if source is None:
        raise InputError(f"there is no method {transfer.method!r}.", remedy, key=key)
    if source.transfer is not None:
        raise InputError(f"the method {transfer.method!r} starts from another prompt itself.", remedy, key=key)
    if source.lora is not None:
        raise InputError(
            f"the vectors of {transfer.method!r} need its adapters.", "Use a method without lora.", key=key
        )
    method = methods[name]
    if source.is_deep != method.is_deep or (method.is_deep and source.places != method.places):
        raise InputError(
            f"the vectors of {transfer.method!r} are at another place of the model.",
            "Set the same method and prefix_at for both.",
            key=key,
        )
