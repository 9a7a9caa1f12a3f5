"""ZeRO-3 of DeepSpeed over a frozen model: each worker keeps a part of every weight, and all of them gather a layer's
weights while it computes (Rajbhandari et al., SC 2020, https://arxiv.org/abs/1910.02054).

What is trained beside it (prompts, adapters, heads) is small, and lies whole on every worker: DeepSpeed's optimizers
are not needed, and a checkpoint is the same for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cluster.workers.swap import BUFFERS, build

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
"""What a worker on processors needs in its environment before it starts: glibc would raise this threshold with every
large block that is freed, and keep gathered weights and activations in heaps full of holes, which nothing shrinks.
"""


class Disk(BaseModel, frozen=True, extra="forbid"):
    """Where a worker's parts of the weights lie, but for small ones."""

    folder: Path = Field(description="Empty, and of this model and worker alone.")
    buffer_size: int = Field(description="Numbers of the largest part, which a buffer has to hold.")


class ZeroSettings(BaseModel, frozen=True, extra="forbid"):
    """What DeepSpeed is told, with names and units of its own configuration."""

    half: bool = Field(description="Weights in bfloat16, else float32.")
    offload: bool = Field(False, description="Keep each worker's part in the memory of the machine, not of the GPU.")
    disk: Disk | None = Field(None, description="Keep it there instead.")

    def config(self) -> dict[str, Any]:
        """DeepSpeed's JSON."""
        zero: dict[str, Any] = {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,  # of small weights, too, each worker keeps a part
            # a layer that was fetched ahead for a pass that never comes would be an error: encoders and decoders, the
            # embedding and the body of a model are called one by one here
            "stage3_prefetch_bucket_size": 0,
            # left alone, DeepSpeed keeps a billion gathered weights for their next use: whole models, on every worker
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        }
        if self.offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": _has_gpu()}
        if self.disk:
            zero["offload_param"] = {
                "device": "nvme",
                "nvme_path": str(self.disk.folder),
                "buffer_count": BUFFERS,
                "buffer_size": self.disk.buffer_size,
                "pin_memory": _has_gpu(),
                "max_in_cpu": 0,
            }
        return {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": self.half}, "zero_optimization": zero}


class Spread:
    """A frozen model whose weights lie on all workers of the process group."""

    def __init__(self, make: Callable[[], Any], settings: ZeroSettings) -> None:
        """
        Args:
            make: Reads a model of transformers; its weights are split while they are read.
            settings: Precision and place.

        Raises:
            SwapError: weights shall lie on a disk, and DeepSpeed's op for it cannot be built.
        """
        _choose_accelerator()
        if settings.disk:
            build()
        import deepspeed
        from transformers.integrations import HfDeepSpeedConfig

        config = settings.config()
        deepspeed.init_distributed(dist_init_required=False)
        reading = HfDeepSpeedConfig(config)  # transformers asks whether one is alive
        self.model = make()
        del reading
        self.model.requires_grad_(False)
        engine, *_ = deepspeed.initialize(model=self.model, config=config)
        self._engine = engine
        # the order of layers that DeepSpeed notes down would grow without end, were it not told where a pass ends
        self.model.base_model.register_forward_hook(self._pass_over)

    def end_pass(self) -> None:
        """The next pass begins anew."""
        self._engine.optimizer.get_param_coordinator().reset_step()

    def close(self) -> None:
        """Ends the threads that read weights from a disk: left alone, they may abort the process when it ends."""
        found = (getattr(weight, "nvme_swapper", None) for weight in self.model.parameters())  # adapters have none
        for swapper in {id(item): item for item in found if item is not None}.values():
            del swapper.aio_read_handle, swapper.aio_write_handle

    def _pass_over(self, *_: Any) -> None:
        import torch

        if not torch.is_grad_enabled():
            self.end_pass()


def _choose_accelerator() -> None:
    """DeepSpeed chooses by what is installed; here decides what this worker was given."""
    if not _has_gpu():
        os.environ["DS_ACCELERATOR"] = "cpu"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
