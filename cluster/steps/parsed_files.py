"""Keeps what a source file contains, by its content, so that no plan parses unchanged code again.

`CLOZELINE_CACHE/code` has one file for each version of Python and of the code that parses. It can be removed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from cluster.store.files import cache_folder, write_atomic

MAX_FILES = 4000
"""Contents that are kept; then all are forgotten."""


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """The digest of what a source file computes, and the modules that it imports.

    If it reads files (`reads_data`), `texts` has its texts, which may be their names.
    """

    digest: str
    imports: tuple[str, ...]
    reads_data: bool
    texts: tuple[str, ...] = ()


class ParsedFiles:
    """The contents that were parsed on this machine.

    Args:
        path: The file that keeps them; None: only this process knows them.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, ParsedFile] = {}
        self._has_changed = False
        if path is None:
            return
        with suppress(AttributeError, OSError, TypeError, ValueError):  # no file, or a damaged one
            known = json.loads(path.read_text(encoding="utf-8"))
            self._known = {
                key: ParsedFile(str(digest), tuple(map(str, imports)), bool(reads_data), tuple(map(str, texts)))
                for key, (digest, imports, reads_data, texts) in known.items()
            }

    def get(self, content: bytes, package: str, parse: Callable[[], ParsedFile]) -> ParsedFile:
        """Returns what a file of a package contains; calls `parse` if the content is new."""
        key = hashlib.sha256(package.encode() + b"\0" + content).hexdigest()
        if key not in self._known:
            if len(self._known) >= MAX_FILES:
                self._known.clear()
            self._known[key] = parse()
            self._has_changed = True
        return self._known[key]

    def save(self) -> None:
        """Writes what is new. Without a folder that can be written, the next process parses the code again."""
        if self._path is None or not self._has_changed:
            return
        self._has_changed = False
        known = {key: list(asdict(item).values()) for key, item in self._known.items()}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(known).encode(), sync=False)


@cache
def parsed_files(parser: Path) -> ParsedFiles:
    """Returns the parsed files of this machine, for the module that parses them."""
    version = hashlib.sha256(parser.read_bytes() + platform.python_version().encode()).hexdigest()
    try:
        folder = cache_folder()
    except RuntimeError:  # a user without a home
        return ParsedFiles(None)
    return ParsedFiles(folder / "code" / f"{version[:16]}.json")
