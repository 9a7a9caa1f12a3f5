"""Compares what the steps of a recipe need with what this machine has: memory, shown by `plan` and checked before a
run, and the folders of `nvme_path`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cluster.errors import OffloadError
from cluster.parallel import nvme_offload
from cluster.parallel.memory import (
    GIB,
    STREAM,
    MemoryBudget,
    ModelShape,
    WorkerMemory,
    Workload,
    estimate_memory,
    strategies_that_fit,
)
from cluster.steps.step import Resources, Step
from pipelines.preflight.model_shapes import cached_shape
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig, LoraConfig
from stages.common.models.config import eval_batch_tokens
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


def check_nvme_folders(steps: Iterable[Step]) -> None:
    """Looks for the folders and for what DeepSpeed needs to use them; on a cluster (`RAY_ADDRESS`) the workers look.

    Raises:
        InputError: a folder, a C++ compiler or libaio.h is missing on this machine.
    """
    places = {step.resources.nvme_path for step in steps if step.resources.nvme_path}
    if not places or os.environ.get("RAY_ADDRESS"):
        return
    try:
        nvme_offload.check_aio_toolchain()
        for place in sorted(places):
            nvme_offload.check_folder(Path(place))
    except OffloadError as error:
        raise InputError(error.problem, error.remedy, key="resources.nvme_path") from error


MOST_WORKERS = 64
"""Numbers of workers that a remedy looks at."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One step with a backbone; `needs` is None where the backbone's config is not on this machine."""

    step: str
    strategy: str
    workers: int
    needs: WorkerMemory | None
    fits: bool = True
    is_refused: bool = False
    remedy: str = ""

    def text(self) -> str:
        """For a table: `zero3 x 2, 1.2 GiB (GPU: 9.1 GiB)`."""
        shared = self.strategy if self.strategy == "single" else f"{self.strategy} x {self.workers}"
        if self.needs is None:
            return f"{shared}, unknown"
        gpu = f", GPU {self.needs.gpu.total / GIB:.1f} GiB" if self.needs.gpu else ""
        disk = f", disk {self.needs.disk / GIB:.1f} GiB" if self.needs.disk else ""
        told = f"{shared}, {self.needs.machine.total / GIB:.1f} GiB{gpu}{disk}"
        return told if self.fits else f"{told}; does not fit: {self.remedy}"


def memory_rows(steps: Sequence[Step], room: MemoryBudget) -> dict[str, MemoryRow]:
    """Step -> what it needs, of all steps with a backbone. Steps that are alike are reckoned once.

    Of workers that may be fewer or more, the fewest need most.
    """
    known: dict[tuple[Workload, BackboneConfig, Resources], MemoryRow] = {}
    shapes: dict[str, ModelShape | None] = {}
    found = {}
    for step in steps:
        backbone = getattr(step.config, "backbone", None)
        if not isinstance(backbone, BackboneConfig):
            continue
        asked = step.resources
        if backbone.asset not in shapes:
            shapes[backbone.asset] = _shape(backbone.asset)
        shape = shapes[backbone.asset]
        if shape is None:
            found[step.name] = MemoryRow(step.name, asked.strategy, asked.min_workers, None)
            continue
        work = workload_of(step, shape)
        key = (work, backbone, asked)
        if key not in known:
            known[key] = _memory_row(step, shape, work, room)
        found[step.name] = known[key]
    return found


def check_fits(steps: Sequence[Step], room: MemoryBudget) -> None:
    """Refuses what cannot fit: whose weights, and what trains, are more than there is. What is unknown is let pass.

    Raises:
        InputError: names the step, its need, what there is, and what would fit.
    """
    for name, line in memory_rows(steps, room).items():
        if line.is_refused and line.needs is not None:
            need = line.needs.gpu or line.needs.machine
            raise InputError(
                f"step {name} ({line.strategy}, workers: {line.workers}) needs {need.total / GIB:.1f} GiB a worker, "
                f"and {_budget_text(room)}.",
                f"{line.remedy}; or go on all the same with resources.check_memory: false.",
                key="resources",
            )


def local_budget(steps: Iterable[Step]) -> MemoryBudget:
    """What this machine has; unknown where the steps run on a cluster (`RAY_ADDRESS`)."""
    if os.environ.get("RAY_ADDRESS"):
        return MemoryBudget(None, None)
    return MemoryBudget(machine_bytes(), gpu_bytes() if any(step.resources.gpus > 0 for step in steps) else None)


def machine_bytes() -> int | None:
    """Bytes of this machine with its swap, or the part of it that this process may use; None where it is not told."""
    try:
        about = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total = sum(int(about[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))
        limit = Path("/sys/fs/cgroup/memory.max")
        written = limit.read_text().strip() if limit.exists() else "max"
    except (OSError, KeyError, ValueError):
        return None
    return min(total, int(written)) if written.isdigit() else total


@cache
def gpu_bytes() -> int | None:
    """Bytes of the largest GPU of this machine, as nvidia-smi tells; None where it tells nothing."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return max(int(number) for number in told) * (1 << 20)
    return None


def workload_of(step: Step, shape: ModelShape) -> Workload:
    """What a step does with its backbone, from its config."""
    config, on_gpu = step.config, step.resources.gpus > 0
    backbone: BackboneConfig = getattr(config, "backbone")  # noqa: B009
    jobs: Sequence[Any] = getattr(config, "jobs", None) or (config,)
    tune = getattr(config, "tune", None)
    prompts = [item for job in jobs if (item := _prompt(job, tune)) is not None]
    lora = _lora(config, tune)
    loops: list[TrainingConfig] = [job.training for job in jobs if getattr(job, "training", None) is not None]
    vectors = [item.num_virtual_tokens for item in prompts] or [getattr(config, "num_virtual_tokens", 0)]
    trained = shape.num_parameters if tune == "full" else sum(vectors) * shape.width
    if any(item.is_deep for item in prompts):
        trained *= 2 * shape.num_layers
    if lora is not None:
        trained += lora.rank * sum(_targets(shape.adapted, lora).values())
    return Workload(
        num_trained=trained if loops else 0,
        trains_backbone=tune == "full",
        has_adapters=lora is not None,
        batch_size=sum(loop.micro_batch_size * step.resources.min_workers if loop.micro_batch_size else loop.batch_size
                       for loop in loops),
        eval_batch_tokens=max(eval_batch_tokens(backbone.eval_batch_tokens, on_gpu=on_gpu), backbone.max_length),
        length=backbone.max_length + max(vectors),
        weight_bytes=2 if _is_half(backbone, on_gpu) else 4,
        fused=on_gpu,
    )  # fmt: skip


def _memory_row(step: Step, shape: ModelShape, work: Workload, room: MemoryBudget) -> MemoryRow:
    asked, on_gpu = step.resources, step.resources.gpus > 0
    on_disk = asked.nvme_path is not None
    needed = estimate_memory(shape, work, asked.strategy, asked.min_workers, on_gpu=on_gpu, on_disk=on_disk)
    if room.fits(needed, asked.min_workers):
        return MemoryRow(step.name, asked.strategy, asked.min_workers, needed)
    is_refused = not room.fits(needed, asked.min_workers, required=True)
    if asked.strategy == STREAM:
        fewer = next((count for count in range(asked.min_workers - 1, 0, -1) if room.fits(needed, count)), None)
        remedy = f"Take workers: {fewer}" if fewer else "Take a smaller backbone, or a cluster with more memory"
        return MemoryRow(step.name, asked.strategy, asked.min_workers, needed, False, is_refused, remedy)
    other = next(strategies_that_fit(shape, work, room, on_gpu=on_gpu, most_workers=MOST_WORKERS), None)
    if other is None:
        remedy = "Take a smaller backbone, or a cluster with more memory"
    elif other[0] == "single":
        remedy = "Take strategy: single"
    else:
        remedy = f"Take strategy: {other[0]}, workers: {other[1]}"
    return MemoryRow(step.name, asked.strategy, asked.min_workers, needed, False, is_refused, remedy)


def _shape(ref: str) -> ModelShape | None:
    """None also where a config is of no use: whoever loads it will complain."""
    try:
        return cached_shape(ref)
    except (InputError, OSError, ValueError, StopIteration):
        return None


def _prompt(job: object, tune: str | None) -> PromptConfig | None:
    """The soft prompt of a config that has one and uses it."""
    found = getattr(job, "prompt", None)
    return found if isinstance(found, PromptConfig) and tune in (None, "prompt") else None


def _lora(config: object, tune: str | None) -> LoraConfig | None:
    """The adapters that train: of a sub-model, or beside a prompt."""
    if tune is not None:
        return getattr(config, "lora", None) if tune == "lora" else None
    prompt = getattr(config, "prompt", None)
    return prompt.lora if isinstance(prompt, PromptConfig) else None


def _targets(adapted: Mapping[str, int], lora: LoraConfig) -> Mapping[str, int]:
    if lora.targets == "all-linear":
        return adapted
    names = (lora.targets,) if isinstance(lora.targets, str) else lora.targets
    return {name: size for name, size in adapted.items() if any(item.endswith(name) for item in names)}


def _is_half(backbone: BackboneConfig, on_gpu: bool) -> bool:
    """Whether frozen weights are bfloat16: as told; `auto`, on every GPU of today, and where the processor says so."""
    if backbone.precision != "auto":
        return backbone.precision == "bf16"
    return on_gpu or _processor_is_half()


@cache
def _processor_is_half() -> bool:
    """As `stages.common.models.batching.wants_bf16`, without importing torch; where nothing is told, the smaller need."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True
    return "avx512_bf16" in words or "amx_tile" in words


def budget_summary(room: MemoryBudget) -> str:
    """One line below a plan."""
    return f"memory: {_budget_text(room) or 'unknown, for the steps run on a cluster'}"


def _budget_text(room: MemoryBudget) -> str:
    parts = [f"this machine has {room.machine / GIB:.1f} GiB"] if room.machine is not None else []
    parts += [f"a GPU has {room.gpu / GIB:.1f} GiB"] if room.gpu is not None else []
    return ", ".join(parts)
