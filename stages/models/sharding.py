"""Weights that an engine has spread over workers: their values are there while a module computes, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def is_spread(weight: Any) -> bool:
    """Whether the values of a parameter lie on several workers (ZeRO-3 of DeepSpeed)."""
    return hasattr(weight, "ds_status")


@contextmanager
def whole(weight: Any) -> Iterator[Any]:
    """The parameter with all its values; every worker must come here. What is kept beyond has to be a copy."""
    if not is_spread(weight) or weight.ds_status.name == "AVAILABLE":
        yield weight
        return
    weight.all_gather()
    yield weight
    weight.partition()
