"""Input and output of commands: consoles that redact secrets, questions, input lines, and output files that appear once
they are complete.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from rich.console import Console
from rich.text import Text

from cluster.redaction import redact
from stages.common.errors import InputError

PIPED_WIDTH = 120


def _open_zst(path: Path, mode: str, *, encoding: str | None = None, errors: str | None = None) -> IO[Any]:
    import pyarrow  # noqa: PLC0415  (for zst files only)

    if mode == "rb":
        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return io.TextIOWrapper(pyarrow.output_stream(str(path), compression="zstd"), encoding, errors)


OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
"""Ending of a compressed file -> the function that opens it."""


class _RedactingStream:
    """Removes secrets of URLs from what is written to a stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RedactingConsole(Console):
    """A console that prints *** instead of secrets in URLs, in messages, tables and tracebacks."""

    @property
    def file(self) -> IO[str]:
        """The output stream, looked up each time because standard output may be replaced."""
        return cast(IO[str], _RedactingStream(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        Console.file.fset(self, new)  # type: ignore[attr-defined]


errors = RedactingConsole(stderr=True)
console = RedactingConsole(width=None if sys.stdout is not None and sys.stdout.isatty() else PIPED_WIDTH)


def is_interactive() -> bool:
    """Returns True if standard input is a terminal."""
    return sys.stdin.isatty()


def prompt_user(question: str, default: str | None) -> str:
    """Returns the user's answer to a question. Enter selects the default, if any.

    Raises:
        InputError: standard input has ended.
    """
    prompt = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        try:
            answer = console.input(Text(prompt)).strip()
        except EOFError:
            raise InputError(
                "standard input ended before all questions were answered.", "Answer them, or add --yes."
            ) from None
        if answer or default is not None:
            return answer or str(default)


@contextmanager
def open_input(name: str) -> Iterator[BinaryIO]:
    """Opens a file, or standard input for `-`. Decompresses files that end in .gz, .bz2, .xz or .zst.

    Raises:
        InputError: the file cannot be read or decompressed.
    """
    try:
        file = io.BufferedReader(cast(Any, sys.stdin.buffer)) if name == "-" else _open_decompressed(Path(name))
    except OSError as error:
        raise InputError(
            f"cannot read {name} ({error.strerror}).", "Set --input to a file, or to - for standard input."
        ) from error
    with file as stream:
        try:
            yield stream
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(f"cannot decompress {name} ({error}).", "Compress it again, or rename it.") from error


def _open_decompressed(path: Path) -> AbstractContextManager[BinaryIO]:
    with path.open("rb"):  # raises now, not at the first line
        pass
    return cast(BinaryIO, OPENERS.get(path.suffix, open)(path, "rb"))


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Opens standard output if `path` is None, else a file that appears when it is complete.

    Compresses files that end in .gz, .bz2, .xz or .zst. The text is UTF-8 in every locale. Half a surrogate pair,
    which UTF-8 does not have, becomes an escape of JSON.

    Raises:
        InputError: the file cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        sys.stdout.flush()
        return
    opener = OPENERS.get(path.suffix, open)
    with new_file(path) as temporary, opener(temporary, "wt", encoding="utf-8", errors="backslashreplace") as file:
        yield file


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, which is renamed to it when the block ends without an error.

    Raises:
        InputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}).", "Set --output to another file.") from error
    finally:
        with suppress(OSError):  # the folder cannot be written, which is the error that is raised already
            temporary.unlink(missing_ok=True)


@contextmanager
def open_log(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Yields a function that appends text to a file at once; None or `-`: standard output.

    Raises:
        InputError: the file cannot be written.
    """
    if path is None or str(path) == "-":
        yield lambda text: print(text, end="", flush=True)  # noqa: T201  (access logs belong to standard output)
        return
    try:
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}).", "Use another file.") from error
    with file:
        yield file.write
