"""Remembers which recipes passed the checks of a plan, so that the next plan of the same files reads none of them.

The cache has an empty file per recipe and state of its files: path, inode, size and mtime of each.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.schema.config import PipelineConfig
from stages.common.assets.cache import cache_folder


@contextmanager
def remember_success(config: PipelineConfig, paths: Iterable[Path]) -> Iterator[bool]:
    """Yields True if the recipe passed with these files before. Remembers it if the block raises no error."""
    states = list(_states(paths))
    state = [_version(), config.model_dump_json(), *states]
    record = cache_folder() / "checked" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    is_known = record.exists()
    yield is_known
    if states and not is_known:
        with suppress(OSError):  # without a cache, the files are read again the next time
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()


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
