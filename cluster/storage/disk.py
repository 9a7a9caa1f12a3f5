"""Writing to a local disk so that a crash at any moment leaves the old state or the new one, never half of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Puts `data` at `path`: written under another name, fsynced, renamed.

    Args:
        path: Where to.
        data: What.
        sync: Wait for the disk; without it a power cut may lose the change, but never leave half of it.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames within `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes all files and folders below `folder` outlive a power cut."""
    for base, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(base) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(base))


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there. It vanishes from its name at once, whatever its size."""
    doomed = path.with_name(f".{path.name}.{os.urandom(4).hex()}.gone")
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)
