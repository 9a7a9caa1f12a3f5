"""What a recommendation goes by: the task, the backbone's size from its config.json alone, and the memory at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.workers.memory import ModelShape
from pipelines.checks import preflight
from pipelines.checks.memory import machine_bytes
from pipelines.checks.model_shapes import shape_of
from pipelines.checks.preflight import OnStart, bare_tokenizer
from pipelines.config import PipelineConfig
from stages import splits
from stages.errors import InputError
from stages.models.model_files import family_of, model_folder, num_positions
from stages.patterns.encoding import Family
from stages.patterns.language import FieldRef, Soft, Words
from stages.tasks import Example, Task
from stages.texts import assets

SHARE_COVERED = 0.95
"""Share of the texts that a recommended length leaves whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Numbers that decide. `tokens`: length under the longest pattern that 95% of the texts keep within, None if they
    cannot be read here; `memory`: bytes of a worker's device, `cores`: of this machine.
    """

    num_classes: int
    num_labelled: int
    tokens: int | None
    family: Family
    shape: ModelShape
    positions: int | None
    memory: int
    cores: int
    computes_in_bf16: bool

    @property
    def num_parameters(self) -> int:
        """Of the backbone."""
        return self.shape.num_parameters


def gather(config: PipelineConfig, memory: int | None, on_start: OnStart) -> Facts:
    """Facts of a recipe on this machine.

    Args:
        config: The recipe. Its backbone is fetched first, but for one of a hub, which may be too large to have here.
        memory: Bytes at hand; None: what this machine has.
        on_start: Told before anything is fetched.

    Raises:
        InputError: the backbone is on a hub and not on this machine, or cannot be fetched or read.
    """
    from stages.models.precision import wants_bf16

    ref = config.backbone.asset
    if ref.startswith("hf:") and not assets.is_cached(ref):
        raise InputError(
            f"the backbone {ref} is not on this machine.",
            "Name a folder with its config.json and tokenizer.json: -o backbone.asset=FOLDER.",
            key="backbone.asset",
        )
    preflight.fetch({"backbone.asset": ref}, on_start)
    folder = model_folder(config.backbone.asset)
    labelled, texts = _texts(config)
    return Facts(
        num_classes=len(config.task.labels),
        num_labelled=labelled,
        tokens=covering_length(config.task, texts, bare_tokenizer(config.backbone)) if texts else None,
        family=family_of(folder),
        shape=shape_of(folder),
        positions=num_positions(folder),
        memory=memory or memory_here(),
        cores=os.cpu_count() or 1,
        computes_in_bf16=wants_bf16(config.backbone.precision),
    )


def memory_here() -> int:
    """Bytes of the first GPU, else of this machine or the part of it that this process may use."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine_bytes() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _texts(config: PipelineConfig) -> tuple[int, list[Example]]:
    """How many labelled examples there are, and texts to measure; none where the data are not at hand."""
    task = config.task
    if not all(assets.is_cached(source.asset) for source in config.data.sources.values()):
        return config.data.shots * len(task.labels), []
    try:
        drawn = splits.draw(splits.Config(data=config.data, labels=task.labels, fields=task.fields, seed=0))
    except (InputError, OSError):
        return config.data.shots * len(task.labels), []
    return len(drawn.train), [*drawn.train, *drawn.unlabeled][:2000]


def covering_length(task: Task, texts: Sequence[Example], tokenizer: Any) -> int:
    """Tokens that leave most of the texts whole under the longest pattern."""
    longest = 0
    for name in task.patterns:
        lengths = sorted(len(tokenizer.encode(_filled(task, name, item)).ids) for item in texts)
        soft = sum(block.num_vectors for block in task.pattern(name).soft_blocks)
        longest = max(longest, lengths[int(SHARE_COVERED * (len(lengths) - 1))] + soft)
    return longest + 2


def _filled(task: Task, pattern: str, example: Example) -> str:
    """The text under a pattern, a word in the place of the mask."""
    question = task.questions(example)[0]
    made = ""
    for part in task.pattern(pattern).parts:
        if isinstance(part, FieldRef):
            made += part.value(question.fields)
        elif isinstance(part, Words):
            made += part.text
        elif not isinstance(part, Soft):
            made += " word"
    return made
