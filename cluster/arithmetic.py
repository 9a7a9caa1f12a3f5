"""The version of what the engine computes itself: sums and averages over workers, clipping, sharding, offloading.

Digests of code leave out the engine, because it decides where a step runs. The version is part of every key instead.
"""

VERSION = 1
"""Raised when the engine computes other numbers from the same step; all steps then run again, or are accepted."""
MODULES = (
    "cluster.parallel.engine",
    "cluster.parallel.nvme_offload",
    "cluster.parallel.partition",
    "cluster.parallel.sharding",
    "cluster.parallel.streaming",
    "cluster.parallel.zero3",
    "stages.common.engine",
)
"""Modules that compute."""
COMPONENT = f"code.{__name__}"
"""Name of the version among the components of a key."""
