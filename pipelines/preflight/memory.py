"""Compares the memory that the steps of a recipe need with the memory of this machine, for `plan` and before a run, and
checks the folders of `nvme_path`.

Reads the shape of a backbone, which the memory planner needs, from its config.json alone.

The model is built on torch's meta device, which takes no memory but seconds of imports. The result is cached in
`CLOZELINE_CACHE/shapes`, a small file per config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from stages.common.assets.cache import cache_folder, is_cached, resolve
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, TuneConfig
from stages.common.models.config import eval_batch_tokens
from stages.common.models.model_files import family_of, is_translated, model_folder
from stages.common.models.remote_code import check_code, definition
from stages.common.patterns.config import Family
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.pet.config import PetConfig

if TYPE_CHECKING:
    from torch import nn


FORM = 3
"""Version of the files in the cache. Raise it if `ModelShape` or the counted values change."""
KEPT_INNER = {"silu": 1, "relu": 1, "gelu": 1, "gelu_new": 4, "gelu_pytorch_tanh": 1}
"""Inner tensors that an activation keeps for its backward pass. gelu_new consists of four products."""
BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}
GATED_TOO = 2
"""Inner tensors that the product of a gate keeps: both of its factors."""


def cached_shape(backbone: BackboneConfig) -> ModelShape | None:
    """Returns the shape of a backbone if its config.json is on this machine, else None. Merging an adapter keeps it.

    Raises:
        AssetError: it is not of a language model, or needs code that may not run.
    """
    if not is_cached(backbone.asset) or not is_translated(resolve(backbone.asset)):
        return None
    folder = model_folder(backbone.asset)
    check_code(folder, trust_remote_code=backbone.trust_remote_code)
    return shape_of(folder, trust_remote_code=backbone.trust_remote_code)


def shape_of(folder: Path, *, trust_remote_code: bool = False) -> ModelShape:
    """Returns the shape of the model whose config.json is in `folder`.

    Raises:
        AssetError: it is missing, or not of a language model.
    """
    family = family_of(folder)
    content = definition(folder, trust_remote_code=trust_remote_code)
    kept = cache_folder() / "shapes" / f"{hashlib.sha256(content).hexdigest()}.{FORM}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        payload = json.loads(kept.read_text(encoding="utf-8"))
        return ModelShape(**{**payload, "weights": tuple(payload["weights"])})
    shape = _count(folder, family, trust_remote_code)
    with suppress(OSError):  # Without a cache, the model is built again the next time.
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(shape)))
        draft.replace(kept)
    return shape


def _count(folder: Path, family: Family, trust_remote_code: bool) -> ModelShape:
    # For models that were not counted yet:
    from stages.common.models.backbones.partitioned import largest_unit, num_unsharded  # noqa: PLC0415  (loads torch)
    from stages.common.models.meta_models import adapted_layer_sizes, meta_model  # noqa: PLC0415  (loads torch)

    model = meta_model(folder, trust_remote_code=trust_remote_code)
    weights = tuple(weight.numel() for weight in model.parameters())
    settings = getattr(model, "config").to_dict()  # noqa: B009
    kept, inner = _activation(model, settings)
    layers = _first(settings, "num_hidden_layers", "n_layer", "num_layers")
    return ModelShape(
        num_parameters=sum(weights),
        weights=weights,
        largest_module=max(
            sum(item.numel() for item in module.parameters(recurse=False)) for module in model.modules()
        ),
        num_layers=layers,
        num_decoder_layers=int(settings.get("num_decoder_layers") or layers) if family == "seq2seq" else 0,
        width=_first(settings, "hidden_size", "n_embd", "d_model"),
        inner=inner,
        num_heads=_first(settings, "num_attention_heads", "n_head", "num_heads"),
        vocabulary=_first(settings, "vocab_size"),
        kept_inner=kept,
        adapted=adapted_layer_sizes(model),
        reads_vocabulary=family != "causal",
        num_unsharded=num_unsharded(model),
        largest_unit=largest_unit(model),
        file_weight_bytes=_bytes_in_file(folder),
    )


def _bytes_in_file(folder: Path) -> int | None:
    """Returns the bytes of a weight in the files of a model, by its config.json; None if it does not say."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return BYTES_OF_DTYPE.get(settings.get("dtype") or settings.get("torch_dtype") or "")


def _activation(model: nn.Module, settings: dict[str, Any]) -> tuple[int, int]:
    """Returns the number of inner tensors that a layer keeps, and the inner size."""
    width = _first(settings, "hidden_size", "n_embd", "d_model")
    inner = next((settings[name] for name in ("intermediate_size", "d_ff", "n_inner") if settings.get(name)), 4 * width)
    name = str(
        settings.get("hidden_act") or settings.get("activation_function") or settings.get("dense_act_fn") or "gelu"
    )
    is_gated = any(item.rpartition(".")[2] in ("gate_proj", "wi_1", "Wi") for item, _ in model.named_modules())
    return KEPT_INNER.get(name, 2) + (GATED_TOO if is_gated else 0), int(inner)


def _first(settings: dict[str, Any], *names: str) -> int:
    return int(next(settings[name] for name in names if settings.get(name)))


def check_nvme_folders(steps: Iterable[Step]) -> None:
    """Checks that the folders exist and that DeepSpeed can use them. On a cluster (`RAY_ADDRESS`), the workers check.

    Raises:
        InputError: a folder, a C++ compiler or libaio.h is missing on this machine.
    """
    folders = {step.resources.nvme_path for step in steps if step.resources.nvme_path}
    if not folders or os.environ.get("RAY_ADDRESS"):
        return
    try:
        nvme_offload.check_aio_toolchain()
        for folder in sorted(folders):
            nvme_offload.check_folder(Path(folder))
    except OffloadError as error:
        raise InputError(error.problem, error.remedy, key="resources.nvme_path") from error


MOST_WORKERS = 64
"""Maximum number of workers that a remedy suggests."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Memory of one step with a backbone. `needs` is None if the config of the backbone is not on this machine."""

    step: str
    strategy: str
    workers: int
    needs: WorkerMemory | None
    fits: bool = True
    is_refused: bool = False
    remedy: str = ""

    def text(self) -> str:
        """Returns the text for a table, such as `zero3 x 2, 1.2 GiB, GPU 9.1 GiB`."""
        shared = self.strategy if self.strategy == "single" else f"{self.strategy} x {self.workers}"
        if self.needs is None:
            return f"{shared}, unknown"
        gpu = f", GPU {self.needs.gpu.total / GIB:.1f} GiB" if self.needs.gpu else ""
        disk = f", disk {self.needs.disk / GIB:.1f} GiB" if self.needs.disk else ""
        text = f"{shared}, {self.needs.machine.total / GIB:.1f} GiB{gpu}{disk}"
        return text if self.fits else f"{text}; does not fit: {self.remedy}"


def memory_rows(steps: Sequence[Step], room: MemoryBudget) -> dict[str, MemoryRow]:
    """Returns step name -> memory, for all steps with a backbone. Equal steps are computed once.

    If the number of workers is a range, its minimum counts, because fewer workers need more memory each.
    """
    known: dict[tuple[Workload, BackboneConfig, Resources], MemoryRow] = {}
    shapes: dict[BackboneConfig, ModelShape | None] = {}
    rows = {}
    for step in steps:
        backbone = getattr(step.config, "backbone", None)
        if not isinstance(backbone, BackboneConfig):
            continue
        resources = step.resources
        if backbone not in shapes:
            shapes[backbone] = _shape(backbone)
        shape = shapes[backbone]
        if shape is None:
            rows[step.name] = MemoryRow(step.name, resources.strategy, resources.min_workers, None)
            continue
        work = workload_of(step, shape)
        key = (work, backbone, resources)
        if key not in known:
            known[key] = _memory_row(step, shape, work, room)
        rows[step.name] = known[key]
    return rows


def check_fits(steps: Sequence[Step], room: MemoryBudget) -> None:
    """Checks that the weights and trained parameters of every step fit into memory. Skips steps of unknown size.

    Raises:
        InputError: with the step, the memory that it needs, the memory that is available, and a strategy that fits.
    """
    for name, row in memory_rows(steps, room).items():
        if row.is_refused and row.needs is not None:
            need = row.needs.gpu or row.needs.machine
            raise InputError(
                f"step {name} ({row.strategy}, workers: {row.workers}) needs {need.total / GIB:.1f} GiB per worker, "
                f"but {_budget_text(room)}.",
                f"{row.remedy}, or set resources.check_memory: false to run anyway.",
                key="resources",
            )


def local_budget(steps: Iterable[Step], address: str | None = None) -> MemoryBudget:
    """Returns the memory of this machine; unknown if the steps run on a cluster (at `address`, or `RAY_ADDRESS`)."""
    if address or os.environ.get("RAY_ADDRESS"):
        return MemoryBudget(None, None)
    return MemoryBudget(machine_bytes(), gpu_bytes() if any(step.resources.gpus > 0 for step in steps) else None)


def machine_bytes() -> int | None:
    """Returns the bytes of main memory and swap, or the limit of this process; None if they are unknown."""
    try:
        sizes = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total = sum(int(sizes[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))
        limit = Path("/sys/fs/cgroup/memory.max")
        limit_text = limit.read_text().strip() if limit.exists() else "max"
    except (OSError, KeyError, ValueError):
        return None
    return min(total, int(limit_text)) if limit_text.isdigit() else total


def gpu_bytes() -> int | None:
    """Returns the bytes of the largest GPU that nvidia-smi lists; None if it lists none."""
    return max(gpu_sizes(), default=None)


@cache
def gpu_sizes() -> tuple[int, ...]:
    """Returns the bytes of each GPU that nvidia-smi lists."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        sizes = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return tuple(int(number) * (1 << 20) for number in sizes)
    return ()


def workload_of(step: Step, shape: ModelShape) -> Workload:
    """Returns what a step does with its backbone, from its config."""
    config, on_gpu = step.config, step.resources.gpus > 0
    backbone: BackboneConfig = getattr(config, "backbone")  # noqa: B009
    jobs: Sequence[Any] = getattr(config, "jobs", None) or (config,)
    tune = getattr(config, "tune", None)
    prompts = [item for job in jobs if (item := _prompt(job, tune)) is not None]
    lora = _lora(config, tune)
    loops: list[TrainingConfig] = [job.training for job in jobs if getattr(job, "training", None) is not None]
    vectors = [item.prompt_length for item in prompts] or [getattr(config, "num_virtual_tokens", 0)]
    trained = sum(vectors) * shape.width + _num_tuned(config, tune, shape)
    trained += sum(item.num_network_weights(shape.width) for item in prompts)
    if any(item.is_deep for item in prompts):
        trained *= 2 * shape.num_layers * max(len(item.places) for item in prompts)
    length = backbone.max_length + _demonstration_tokens(config)
    if lora is not None:
        trained += lora.rank * sum(_targets(shape.adapted, lora).values())
    return Workload(
        num_trained=trained if loops else 0,
        trains_backbone=tune in ("full", "top_layers", "biases"),
        has_adapters=lora is not None or tune in ("ia3", "adapter"),
        batch_size=sum(loop.micro_batch_size * step.resources.min_workers if loop.micro_batch_size else loop.batch_size
                       for loop in loops),
        eval_batch_tokens=max(eval_batch_tokens(backbone.eval_batch_tokens, on_gpu=on_gpu), length),
        length=length + max(vectors),
        weight_bytes=2 if _is_half(backbone, on_gpu) else 4,
        fused=on_gpu,
    )  # fmt: skip


def _memory_row(step: Step, shape: ModelShape, work: Workload, room: MemoryBudget) -> MemoryRow:
    strategy, workers, on_gpu = step.resources.strategy, step.resources.min_workers, step.resources.gpus > 0
    on_disk = step.resources.nvme_path is not None
    needs = estimate_memory(shape, work, strategy, workers, on_gpu=on_gpu, on_disk=on_disk)
    if room.fits(needs, workers):
        return MemoryRow(step.name, strategy, workers, needs)
    is_refused = not room.fits(needs, workers, required=True)
    remedy = "Use a smaller backbone, or a cluster with more memory"
    if strategy == STREAM:
        fewer = next((count for count in range(workers - 1, 0, -1) if room.fits(needs, count)), None)
        remedy = f"Set workers: {fewer}" if fewer else remedy
    elif (
        other := next(strategies_that_fit(shape, work, room, on_gpu=on_gpu, most_workers=MOST_WORKERS), None)
    ) is not None:
        is_single = other[0] == "single"
        remedy = "Set strategy: single" if is_single else f"Set strategy: {other[0]}, workers: {other[1]}"
    return MemoryRow(step.name, strategy, workers, needs, False, is_refused, remedy)


def _shape(backbone: BackboneConfig) -> ModelShape | None:
    """Returns None also if the config is invalid, which other checks report."""
    try:
        return cached_shape(backbone)
    except (InputError, OSError, ValueError, StopIteration):
        return None


def _prompt(job: object, tune: str | None) -> PromptConfig | None:
    """Returns the soft prompt of a config that uses one."""
    prompt = getattr(job, "prompt", None)
    return prompt if isinstance(prompt, PromptConfig) and tune in (None, "prompt") else None


def _demonstration_tokens(config: object) -> int:
    """Returns the tokens of the demonstrations with each text."""
    if not isinstance(config, PetConfig) or config.demonstrations is None:
        return 0
    return len(config.task.labels) * config.demonstrations.max_length


def _num_tuned(config: object, tune: str | None, shape: ModelShape) -> int:
    """Returns the number of trained weights without those of LoRA and prompts; that of blocks is an upper bound."""
    if not isinstance(config, TuneConfig):
        return 0
    num_blocks = shape.num_layers + shape.num_decoder_layers
    num_top = min(num_blocks, config.num_top_layers * (2 if shape.num_decoder_layers else 1))
    sizes = {
        "full": shape.num_parameters,
        "top_layers": min(shape.num_parameters, num_top * shape.width * (8 * shape.width + 3 * shape.inner)),
        "biases": num_blocks * (12 * shape.width + 2 * shape.inner),
        "ia3": num_blocks * (4 * shape.width + shape.inner),
        "adapter": num_blocks * (2 * shape.width * config.adapter_size + shape.width + config.adapter_size),
    }
    return sizes.get(tune or "", 0)


def _lora(config: object, tune: str | None) -> LoraConfig | None:
    """Returns the adapters that are trained: of a sub-model, or with a prompt."""
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
    """Returns True if frozen weights are bfloat16. `auto` means bfloat16 on GPUs, and on CPUs that compute in it."""
    if backbone.precision != "auto":
        return backbone.precision == "bf16"
    return on_gpu or _cpu_has_bf16()


@cache
def _cpu_has_bf16() -> bool:
    """The same as `stages.common.models.batching.wants_bf16`, without importing torch. True if unknown."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True
    return "avx512_bf16" in flags or "amx_tile" in flags


def budget_summary(room: MemoryBudget) -> str:
    """Returns the line below a plan."""
    return f"memory: {_budget_text(room) or 'unknown, because the steps run on a cluster'}"


def _budget_text(room: MemoryBudget) -> str:
    parts = [f"this machine has {room.machine / GIB:.1f} GiB"] if room.machine is not None else []
    parts += [f"a GPU has {room.gpu / GIB:.1f} GiB"] if room.gpu is not None else []
    return ", ".join(parts)
