"""Describes this machine, its load and the versions that decide speed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def machine() -> str:
    """Describes this machine, its load and its libraries in one line. Imports no library that needs seconds."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ray"))
    return (
        f"{platform.system()} {platform.machine()}, {cpu_model()}, {os.cpu_count()} CPUs (load "
        f"{os.getloadavg()[0]:.1f} before), {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"Python {platform.python_version()}, {packages}"
    )


def cpu_model() -> str:
    """Returns the name of the CPU. Linux has it in a file only."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
