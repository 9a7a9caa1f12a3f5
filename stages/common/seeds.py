"""Seeds: every random choice follows from the pipeline's seed and the step's name, never from global state.

`torch_rng` imports torch inside the function, because the planner derives seeds and must not load torch.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for `names`, independent of the order in which steps run and of Python's hash randomisation."""
    text = "\x1f".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_rng(seed: int, *names: str | int) -> random.Random:
    """A Python generator for `names`."""
    return random.Random(derive_seed(seed, *names))


def torch_rng(seed: int, *names: str | int) -> torch.Generator:
    """A torch CPU generator for `names`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *names))


def seed_everything(seed: int) -> None:
    """Seeds torch's global generator, from which dropout draws; called once at the start of a stage."""
    import torch

    torch.manual_seed(seed)
