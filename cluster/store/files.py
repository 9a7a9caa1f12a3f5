"""Atomic writes and digests of files on a local disk.

A crash at any moment leaves the old or the new state of a file, never a part of it. A digest is computed once per
version of a file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cluster.errors import StoreError

CHUNK = 1 << 20
# A file changed twice within one tick of the file system's clock looks unchanged: only older ones are remembered.
SETTLED_NS = 2_000_000_000


def file_digest(path: Path, cache: Path | None = None) -> str:
    """sha256 of a file's bytes, in hex.

    Args:
        path: The file; links are followed.
        cache: Small database that remembers digests by path, size, time and inode; None: always read the file.

    Raises:
        StoreError: there is no such file.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise StoreError(f"the file {path} is not there.", "Fetch it again, or correct its path.") from None
    if cache is None:
        return _hash(path)
    mark = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    with _database(cache) as database:
        where = str(path.resolve())
        row = database.execute("SELECT digest FROM digests WHERE path=? AND mark=?", (where, mark)).fetchone()
        if row:
            return str(row[0])
        digest = _hash(path)
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (where, mark, digest))
    return digest


def tree_digest(path: Path, cache: Path | None = None) -> str:
    """Digest of a folder: names and digests of all files below it. A single file is a tree of itself.

    Raises:
        StoreError: there is nothing at `path`.
    """
    if not path.is_dir():
        return file_digest(path, cache)
    total = hashlib.sha256()
    for file in sorted_files(path):
        total.update(f"{file}\0{file_digest(path / file, cache)}\n".encode())
    return total.hexdigest()


def sorted_files(folder: Path) -> list[str]:
    """All files below `folder`, relative, with forward slashes, sorted by name."""
    found = []
    for base, _, names in os.walk(folder, followlinks=True):
        found += [(Path(base) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:

    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, mark TEXT, digest TEXT)")
        yield database


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


def link_files(source: Path, names: Iterable[str], target: Path) -> None:
    """Links files into another folder, or copies them where the disk has no links."""
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(source / name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copy2(source / name, path)


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
