"""Closed and full streams, other encodings and a missing home folder: one sentence with a remedy, and no traceback."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import subprocess
import sys

import pytest

from pipelines.cli.streams import prepare_environment, system_error
from stages.common.errors import InputError
from tests.support.paths import ROOT


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell command in which `clozeline` is the command of this checkout."""
    function = f"{shlex.quote(sys.executable)} -c 'from pipelines.cli.app import main; main()'"
    return subprocess.run(
        ["bash", "-c", f'clozeline() {{ {function} "$@"; }}; {command}; exit "${{PIPESTATUS[0]}}"'],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "status", "problem"),
    [
        ("clozeline --help > /dev/full", 1, "the output cannot be written (No space left on device)"),
        ("clozeline --help >&-", 2, "standard output is closed"),
        ("clozeline --help >&- 2>&-", 2, ""),
        ("clozeline --help | true", None, ""),
    ],
)
def test_output_that_cannot_be_written(command: str, status: int | None, problem: str) -> None:
    done = shell(command)
    assert status is None or done.returncode == status, done.stderr
    assert problem in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if problem else 0), done.stderr


def test_closed_streams_are_no_files_of_the_program() -> None:
    """A file that took the place of standard error would receive the messages."""
    code = (
        "from pipelines.cli.streams import prepare_environment; import os, sys; prepare_environment(); "
        "print(os.open(os.devnull, os.O_RDONLY) > 2, sys.stdin.read() == '', sys.stderr.write('x'))"
    )
    done = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- 2>&-")
    assert done.stdout == "True True 1\n"


def test_a_terminal_of_another_encoding_shows_escapes() -> None:
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = shell("clozeline plan 映画.yaml", **locale)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "there is no recipe" in done.stderr and done.stderr.isascii()


def test_a_missing_home_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(InputError, match="there is no home folder") as caught:
        prepare_environment()
    assert "HOME=" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/ro/store"), ("/ro/store", "Read-only", "--store")),
        (OSError(errno.EACCES, "Permission denied", "/root/x"), ("/root/x", "Permission denied", "HOME")),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), ("/full/x", "Free space")),
        (OSError(errno.EIO, "Input/output error"), ("the output cannot be written", "redirect")),
        (OSError(errno.EMFILE, "Too many open files", "x"), ("too many files", "ulimit")),
        (ConnectionError("refused"), ("refused", "--debug")),
    ],
)
def test_errors_of_the_system_have_a_remedy(error: OSError, expected: tuple[str, ...]) -> None:
    shown = str(system_error(error))
    assert all(words in shown for words in expected), shown
