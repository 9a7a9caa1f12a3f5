"""Weights that the engine has partitioned over workers (ZeRO-3): their values exist only while a module computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def is_partitioned(weight: Any) -> bool:
    """Returns True if the values of a parameter are spread over several workers (ZeRO-3 of DeepSpeed)."""
    return hasattr(weight, "ds_status")


@contextmanager
def gathered(weight: Any) -> Iterator[Any]:
    """Yields the parameter with all its values. All workers must call this. Copy what you need after the block."""
    if not is_partitioned(weight) or weight.ds_status.name == "AVAILABLE":
        yield weight
        return
    weight.all_gather()
    yield weight
    weight.partition()
