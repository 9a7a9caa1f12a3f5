"""Which pretrained prompt another prompt starts from, where pretraining has several formats."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.schema.sections import PptSection
from stages.errors import InputError
from stages.models.backbones import BackboneConfig
from stages.patterns.language import OPTION
from stages.pretraining.formats import Format, check_room
from stages.tasks import Task


def fitting(task: Task, pattern: str) -> Format:
    """The format that is most like a task under a pattern: choice where there are options, pair where the pattern takes
    two fields or more, else single.
    """
    if task.options:
        return "choice"
    fields = [name for name in task.pattern(pattern).fields if name != OPTION]
    return "pair" if len(fields) > 1 else "single"


def start_of(task: Task, pattern: str, formats: Sequence[Format], named: Format | None = None) -> Format:
    """The format whose prompt is the start for a task.

    Args:
        task: The downstream task.
        pattern: Its pattern.
        formats: Those that are pretrained.
        named: The one that the recipe names; none: the fitting one, else unified, else the only one.

    Raises:
        InputError: the one that is named is not pretrained; or several are, and none of them fits.
    """
    wanted = fitting(task, pattern)
    if named is None and wanted in formats:
        return wanted
    return _named_or_only(formats, named, f"{wanted} fits the task {task.name}", f"{wanted} or unified")


def named_or_only(task: str, formats: Sequence[Format], named: Format | None) -> Format:
    """The same for a task that no format is like, such as labels of words; errors as above."""
    return _named_or_only(formats, named, f"no format is like the task {task}", "unified")


def _named_or_only(formats: Sequence[Format], named: Format | None, why: str, better: str) -> Format:
    listed = ", ".join(formats)
    if named is not None and named not in formats:
        raise InputError(
            f"no prompt is pretrained in the format {named}; ppt.formats are {listed}.",
            f"Add {named} to ppt.formats, or take one of these.",
        )
    if named is not None:
        return named
    if "unified" in formats:
        return "unified"
    if len(formats) == 1:
        return formats[0]
    raise InputError(
        f"{why}, and the prompts are pretrained in other formats: {listed}.",
        f"Add {better} to ppt.formats; a downstream task may also name one of these: format.",
    )


def check_options(ppt: PptSection, backbone: BackboneConfig) -> None:
    """Refuses more options than the backbone's length has room for.

    Raises:
        InputError: at `ppt.choice_options` or `ppt.unified_options`.
    """
    for kind in ("choice", "unified"):
        if kind in ppt.formats:
            try:
                check_room(ppt.num_options(kind)[1], backbone.max_length)
            except InputError as error:
                raise error.at(key=f"ppt.{kind}_options") from None
