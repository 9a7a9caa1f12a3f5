"""Which versions a result was made with."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "clozeline", "deepspeed", "mlflow", "numpy", "peft", "pydantic", "ray", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
"""What may change a result."""


@cache
def versions() -> dict[str, str]:
    """Python and the packages that may change a result, by name; those that are not installed are left out. Read once
    in each process, for reading it takes as long as a small step.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
