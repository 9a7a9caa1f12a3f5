"""Seeds: every random choice follows from the pipeline's seed and the step's name, never from global state."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit seed for `names`, independent of the order of steps and of Python's hash randomization."""
    text = "\x1f".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_rng(seed: int, *names: str | int) -> random.Random:
    """Returns a Python generator for `names`."""
    return random.Random(derive_seed(seed, *names))


def torch_rng(seed: int, *names: str | int) -> torch.Generator:
    """Returns a torch CPU generator for `names`."""
    import torch  # noqa: PLC0415  (a plan derives seeds and must not load torch)

    return torch.Generator().manual_seed(derive_seed(seed, *names))
