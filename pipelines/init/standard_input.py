"""Texts on standard input. They become a file, because a run reads them again."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from stages.common.errors import InputError


def save_standard_input(stream: BinaryIO, stem: str, *, force: bool) -> str:
    """Writes what is on standard input to a new file of its format, and returns its path.

    Args:
        stream: Standard input.
        stem: Path of the file, without its ending.
        force: Whether an existing file may be overwritten.

    Raises:
        InputError: there is nothing on standard input, or the file exists.
    """
    content = stream.read()
    if not content.strip():
        raise InputError("standard input is empty.", "Pipe a file into it, or set a file: clozeline init FILE.")
    path = Path(f"{stem}{_ending(content)}")
    if path.exists() and not force:
        raise InputError(f"{path} exists.", "Set --output to another name, or overwrite it with --force.")
    path.write_bytes(content)
    return str(path)


def _ending(content: bytes) -> str:
    """Returns the ending of JSON or JSON lines if the content starts like them, else of CSV."""
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return {b"[": ".json", b"{": ".jsonl"}.get(start, ".csv")
