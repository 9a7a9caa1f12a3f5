"""`clozeline doctor`: checks package versions, CPU, GPUs, disk, compiler and assets, and says how to fix what is
missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.errors import OffloadError
from cluster.parallel import nvme_offload
from stages.common.assets import availability
from stages.common.assets.cache import cache_folder, is_cached
from stages.common.errors import AssetError

PACKAGES = ("torch", "transformers", "peft", "ray", "deepspeed", "mlflow", "datasets", "accelerate")
DISK_GB = 5


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the examination. `remedy` is empty where nothing is to be done; `fatal` ones stop a pipeline."""

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def run_checks(wanted: Mapping[str, str]) -> Iterator[CheckResult]:
    """Looks at versions, processors, memory, disk, the network and the assets of a recipe.

    Args:
        wanted: Dotted place in the recipe -> reference of an asset.
    """
    good = sys.version_info >= (3, 11)
    yield CheckResult("Python", platform.python_version(), "" if good else "Install Python 3.11 or newer.", not good)
    for name in PACKAGES:
        yield _package(name)
    yield _compiler()
    yield _disk_tools()
    yield _processors()
    yield _gpus()
    yield _disk()
    for place, ref in wanted.items():
        yield _asset(place, ref)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _package(name: str) -> CheckResult:
    version = _version(name)
    if version:
        return CheckResult(name, version)
    return CheckResult(name, "not installed", "Run: pip install -c constraints.txt -e .", fatal=True)


def _compiler() -> CheckResult:
    """DeepSpeed compiles a small part of itself when workers on processors first share a model."""
    found = shutil.which("g++") or shutil.which("c++")
    remedy = "" if found else "Install g++ for strategy: zero3 on processors; nothing else needs it."
    return CheckResult("C++ compiler", found or "none", remedy)


def _disk_tools() -> CheckResult:
    try:
        nvme_offload.check_aio_toolchain()
    except OffloadError:
        return CheckResult(
            "libaio.h", "none", "Run: apt install libaio-dev g++, for resources.nvme_path; nothing else needs it."
        )
    return CheckResult("libaio.h", "found")


def _processors() -> CheckResult:
    from stages.common.models.batching import wants_bf16  # noqa: PLC0415  (loads torch)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return CheckResult("processor", f"{cores} cores, computes in {'bf16' if wants_bf16('auto') else 'fp32'}")


def _gpus() -> CheckResult:
    import torch  # noqa: PLC0415  (`gc` imports this module and does not need it)

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return CheckResult("GPUs", ", ".join(names) or "none: everything runs on the processor")


def _disk() -> CheckResult:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    remedy = "" if free > DISK_GB else f"Free {DISK_GB} GB, or set CLOZELINE_CACHE to another disk."
    return CheckResult("cache", f"{folder}, {free:.0f} GB free", remedy)


def _asset(place: str, ref: str) -> CheckResult:
    short = ref.partition("#")[0]
    try:
        if is_cached(ref):
            return CheckResult(place, f"{short} (cached)")
        availability.check_available([ref])
    except AssetError as error:
        return CheckResult(place, error.problem, error.remedy, fatal=True)
    return CheckResult(place, f"{short} (to be fetched)")
