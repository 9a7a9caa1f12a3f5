"""Settings of ZeRO-3 and NVMe offload.

Does not import torch or DeepSpeed, so the memory planner can read the sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

NUM_BUFFERS = 8
"""Parts of weights that are in memory at a time, each with the length of the largest: those of the module that is
gathered, a weight and a bias mostly, and of those that are read first.
"""
MIN_OFFLOADED_BYTES = 1 << 20
"""Bytes: DeepSpeed keeps smaller parts in memory, for one of its reads is as long."""
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

    bf16: bool = Field(description="Weights in bfloat16, else float32.")
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
            zero["offload_param"] = {"device": "cpu", "pin_memory": has_gpu()}
        if self.disk:
            zero["offload_param"] = {
                "device": "nvme",
                "nvme_path": str(self.disk.folder),
                "buffer_count": NUM_BUFFERS,
                "buffer_size": self.disk.buffer_size,
                "pin_memory": has_gpu(),
                "max_in_cpu": 0,
            }
        return {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": self.bf16}, "zero_optimization": zero}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
