"""Imports functions that are named as text, so that a plan needs none of their libraries."""

from __future__ import annotations

import importlib
from typing import Any

from cluster.errors import GraphError


def resolve(name: str) -> Any:
    """Imports `module:attribute`. No other function imports a module by name.

    Raises:
        GraphError: the module or the attribute does not exist.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise GraphError(f"cannot import {name}: {error}.", "Correct the name, or install the module.") from error
