"""Remembers which recipes passed the checks of a plan or a run, so that the next one of the same files reads none of
them.

The cache has a file with the warnings per recipe and state of its files: path, inode, size and mtime of each.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.schema.config import PipelineConfig
from stages.common.assets.cache import cache_folder


def remembered(
    config: PipelineConfig, paths: Iterable[Path], check: Callable[[], Sequence[str]], *, scope: str
) -> tuple[str, ...]:
    """Returns the warnings of a check. Runs it only if the recipe did not pass with these files before.

    Args:
        config: The recipe.
        paths: Files and folders that the check reads.
        check: Returns warnings, or raises an error, which is not remembered.
        scope: How much it checks: that of a run is more than that of a plan.
    """
    states = list(_states(paths))
    state = [_version(), scope, config.model_dump_json(), *states]
    record = cache_folder() / "checked" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    with suppress(OSError):
        return tuple(record.read_text(encoding="utf-8").splitlines())
    warnings = tuple(check())
    if states:
        with suppress(OSError):  # without a cache, the files are read again the next time
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text("".join(f"{item}\n" for item in warnings), encoding="utf-8")
    return warnings


def _version() -> str:
    """Returns the version of clozeline, whose checks may differ from those of another one."""
    with suppress(importlib.metadata.PackageNotFoundError):  # a checkout that is not installed
        return importlib.metadata.version("clozeline")
    return ""


def _states(paths: Iterable[Path]) -> Iterator[tuple[str, int, int, int]]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            stat = file.stat()
            yield str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns
