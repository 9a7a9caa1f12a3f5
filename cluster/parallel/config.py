"""Settings of ZeRO-3 and NVMe offload.

Does not import torch or DeepSpeed, so the memory planner can read the sizes.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

NUM_BUFFERS = 8
"""Parts of weights that are in memory at a time, each with the length of the largest part: those of the module that is
gathered (usually a weight and a bias) and those that are prefetched.
"""
MIN_OFFLOADED_BYTES = 1 << 20
"""DeepSpeed keeps smaller parts in memory, because one of its reads has this size."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
"""Environment of a CPU worker, set before it starts. Otherwise glibc raises this threshold with every large block that
is freed, and keeps gathered weights and activations in fragmented heaps that never shrink.
"""


class Disk(BaseModel, frozen=True, extra="forbid"):
    """Where a worker stores its parts of the weights, except small ones."""

    folder: Path = Field(description="An empty folder that only this model of this worker uses.")
    buffer_size: int = Field(description="Number of elements of the largest part, which a buffer must hold.")


class ZeroSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings of a partitioned model, from which `cluster.parallel.zero3` builds the configuration of DeepSpeed."""

    bf16: bool = Field(description="Load weights in bfloat16. If False, in float32.")
    offload: bool = Field(False, description="Keep each worker's part in CPU memory instead of GPU memory.")
    disk: Disk | None = Field(None, description="Keep each worker's part on a disk instead.")
