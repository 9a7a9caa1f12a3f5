"""Input and output of commands: consoles that redact secrets, questions, lines of a file or of standard input, and
output files that appear once complete.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from cluster.redaction import redact
from stages.common.errors import InputError

PIPED_WIDTH = 120


class _RedactingStream:
    """A stream that gets no secrets of URLs."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RedactingConsole(Console):
    """A console that shows secrets of URLs as stars, whatever is printed: messages, tables, traces."""

    @property
    def file(self) -> IO[str]:
        """Where it writes; looked up each time, for standard output may be replaced."""
        return cast(IO[str], _RedactingStream(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        Console.file.fset(self, new)  # type: ignore[attr-defined]


errors = RedactingConsole(stderr=True)
console = RedactingConsole(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def is_interactive() -> bool:
    """Whether somebody can answer questions."""
    return sys.stdin.isatty()


def prompt_user(question: str, default: str | None) -> str:
    """A person's answer to a question; Enter takes the default, if there is one.

    Raises:
        InputError: standard input has ended.
    """
    words = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        try:
            answer = console.input(Text(words)).strip()
        except EOFError:
            raise InputError("the questions were not answered.", "Answer, or take what is proposed: --yes.") from None
        if answer or default is not None:
            return answer or str(default)


@contextmanager
def open_lines(name: str) -> Iterator[TextIO]:
    """Standard input for `-`, else the file, unpacked on the way if its name says so (.gz, .bz2, .xz)."""

    try:
        file = nullcontext(sys.stdin) if name == "-" else _open_decompressed(Path(name))
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).", "Name a file of JSON lines, or -.") from error
    with file as lines:
        try:
            yield lines
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is not UTF-8 ({error.reason}).", "Save it as UTF-8.") from error
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(
                f"{name} cannot be unpacked ({error}).", "Pack it again, or correct its ending."
            ) from error


def _open_decompressed(path: Path) -> AbstractContextManager[TextIO]:

    with path.open("rb"):  # what cannot be read is told now, not at the first line
        pass
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)
    return cast(TextIO, opener(path, "rt", encoding="utf-8"))


@contextmanager
def open_output(path: Path | None, option: str = "--output") -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name when it is complete.

    Args:
        path: The file; None: standard output.
        option: What a person names another file with.

    Raises:
        InputError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).", f"Name another {option}.") from error
    finally:
        temporary.unlink(missing_ok=True)
