"""`clozeline doctor`: checks package versions, CPU, GPUs, disk, compiler and assets, with a remedy per problem."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from cluster.errors import OffloadError
from cluster.parallel import nvme_offload
from stages.common.assets import availability
from stages.common.assets.cache import cache_folder, is_cached
from stages.common.errors import AssetError
from stages.common.models.batching import wants_bf16

PACKAGES = ("torch", "transformers", "peft", "ray", "deepspeed", "mlflow", "datasets", "accelerate")
DISK_GB = 5


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `remedy` is empty if there is no problem. A `fatal` problem prevents runs."""

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def run_checks(refs: Mapping[str, str]) -> Iterator[CheckResult]:
    """Checks versions, CPU, GPUs, disk, compiler and the assets of a recipe.

    Args:
        refs: Dotted key in the recipe -> reference of an asset.
    """
    is_supported = sys.version_info >= (3, 11)
    remedy = "" if is_supported else "Install Python 3.11 or newer."
    yield CheckResult("Python", platform.python_version(), remedy, not is_supported)
    for name in PACKAGES:
        yield _package(name)
    yield _compiler()
    yield _disk_tools()
    yield _cpu()
    yield _gpus()
    yield _disk()
    for key, ref in refs.items():
        yield _asset(key, ref)


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
    """Checks for a compiler, with which DeepSpeed builds an extension when workers on CPUs first share a model."""
    compiler = shutil.which("g++") or shutil.which("c++")
    remedy = "" if compiler else "Install g++ if you use strategy: zero3 on CPUs."
    return CheckResult("C++ compiler", compiler or "none", remedy)


def _disk_tools() -> CheckResult:
    try:
        nvme_offload.check_aio_toolchain()
    except OffloadError:
        return CheckResult("libaio.h", "none", "Run: apt install libaio-dev g++ if you use resources.nvme_path.")
    return CheckResult("libaio.h", "found")


def _cpu() -> CheckResult:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return CheckResult("CPU", f"{cores} cores, computes in {'bf16' if wants_bf16('auto') else 'fp32'}")


def _gpus() -> CheckResult:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return CheckResult("GPUs", ", ".join(names) or "none: everything runs on the CPU")


def _disk() -> CheckResult:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    remedy = "" if free > DISK_GB else f"Free {DISK_GB} GB, or set CLOZELINE_CACHE to another disk."
    return CheckResult("cache", f"{folder}, {free:.0f} GB free", remedy)


def _asset(key: str, ref: str) -> CheckResult:
    short = ref.partition("#")[0]
    try:
        if is_cached(ref):
            return CheckResult(key, f"{short} (cached)")
        availability.check_available([ref])
    except AssetError as error:
        return CheckResult(key, error.problem, error.remedy, fatal=True)
    return CheckResult(key, f"{short} (to be downloaded)")
