"""Atomic writes and digests of files on a local disk.

A crash at any moment leaves the old or the new state of a file, never a part of it. A digest is computed once per
version of a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import StoreError

_REST = re.compile(r"\..+\.[0-9a-f]{8}\.gone")
SETTLED_NS = 2_000_000_000
"""A file that changes twice within one tick of the file system's clock looks unchanged. So only digests of files that
are at least this old are cached.
"""


@dataclass(frozen=True, slots=True)
class FileMark:
    """Changes whenever a file is written, replaced or restored: a program cannot set the time of change."""

    inode: int
    size: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileMark:
        """Reads the mark of a file; links are followed. Raises FileNotFoundError."""
        stat = path.stat()
        return cls(stat.st_ino, stat.st_size, stat.st_ctime_ns)


def read_marks(paths: Iterable[Path]) -> dict[Path, FileMark]:
    """Returns the marks of files, and of all files in folders; leaves out what does not exist."""
    marks: dict[Path, FileMark] = {}
    for path in paths:
        for file in [path / name for name in sorted_files(path)] if path.is_dir() else [path]:
            with suppress(FileNotFoundError):
                marks[file] = FileMark.of(file)
    return marks


def file_digest(path: Path | str, cache: Path | None = None) -> str:
    """Returns the sha256 of a file in hex.

    Args:
        path: The file; links are followed.
        cache: A small database that maps path, size, times and inode to digests; None: always read the file.

    Raises:
        StoreError: the file does not exist.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise StoreError(f"the file {path} does not exist.", "Download it again, or correct its path.") from None
    if cache is None:
        return _hash(path)
    mark = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
    with _database(cache) as database:
        key = (str(path.resolve()), mark)
        row = database.execute("SELECT digest FROM digests WHERE path=? AND mark=?", key).fetchone()
        if row:
            return str(row[0])
        digest = _hash(path)
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (*key, digest))
    return digest


def sorted_files(folder: Path) -> list[str]:
    """Returns the relative paths of all files below `folder`, with forward slashes, sorted."""
    files: list[str] = []
    for base, _, names in os.walk(folder, followlinks=True):
        files += [(Path(base) / name).relative_to(folder).as_posix() for name in names]
    return sorted(files)


def cache_folder() -> Path:
    """Returns this machine's folder for files that can be downloaded or computed again."""
    return Path(os.environ.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline").expanduser().absolute()


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes a file under another name, syncs it to the disk and renames it.

    Args:
        path: The file.
        data: Its new content.
        sync: Wait for the disk. If False, a power failure may lose the change, but never leaves a part of it.
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
        sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Makes the content of a file, or renames within a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes all files and folders below `folder` survive a power failure."""
    for base, _, names in os.walk(folder):
        for name in names:
            sync_to_disk(Path(base) / name)
        sync_to_disk(Path(base))


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
    """Removes a file or folder, if it exists. It disappears from `path` at once, whatever its size."""
    renamed = path.with_name(f".{path.name}.{os.urandom(4).hex()}.gone")
    try:
        path.rename(renamed)
    except FileNotFoundError:
        return
    if renamed.is_dir() and not renamed.is_symlink():
        shutil.rmtree(renamed, ignore_errors=True)
    else:
        renamed.unlink(missing_ok=True)


def is_rest_of_removal(name: str) -> bool:
    """Returns True for the name that `remove` gives to what it removes, and that stays if it is interrupted."""
    return _REST.fullmatch(name) is not None


def rests_of_removals(folder: Path) -> Iterator[Path]:
    """Yields what interrupted removals left below a folder."""
    for base, folders, files in os.walk(folder):
        found = [name for name in (*folders, *files) if is_rest_of_removal(name)]
        folders[:] = [name for name in folders if name not in found]
        yield from (Path(base) / name for name in found)


def newest_change(path: Path) -> float:
    """Returns when a file, or anything in a folder, changed last, in seconds since 1970; 0 if it does not exist."""
    return max((item.st_ctime for item in _states(path)), default=0.0)


def num_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder, without what is removed in the meantime."""
    return sum(item.st_size for item in _states(path) if not stat.S_ISDIR(item.st_mode))


def _states(path: Path) -> Iterator[os.stat_result]:
    """Yields the state of a path and of everything in it. What another process removes meanwhile is left out."""
    inner = (Path(base) / name for base, folders, files in os.walk(path) for name in (*folders, *files))
    for item in (path, *inner):
        with suppress(FileNotFoundError, NotADirectoryError):
            yield item.lstat()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, mark TEXT, digest TEXT)")
        yield database
