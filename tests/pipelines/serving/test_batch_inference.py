"""`predict` answers files of any size in the memory of one block of lines, packed or piped."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.cli.views.terminal import open_lines
from pipelines.serving.batch_inference import LINES_AT_ONCE
from stages.common.errors import InputError
from tests.support.paths import ROOT

MEASURED = """
import atexit, sys
from pathlib import Path
from pipelines.cli.app import main

def tell():  # getrusage would begin at the peak of the process that started this one
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print("peak", 1024 * int(line.split()[1]), file=sys.stderr)

atexit.register(tell)
main()
"""
NUM_LINES, LINE_BYTES = 4096, 8000
ROOM = 12_000_000
"""Bytes that the peak may differ by; all lines together are 32.8 MB."""

pytestmark = pytest.mark.timeout(300)
Peak = Callable[..., int]


def lines(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"film number {number} is a warm story ".ljust(LINE_BYTES - 1, "x") + "\n"


@pytest.fixture(scope="module")
def peak(smoke_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Peak:
    """Highest memory, in bytes, of a process that answers so many lines; all of them must be answered."""
    folder = tmp_path_factory.mktemp("streams")

    def call(count: int, *, packed: bool) -> int:
        source = folder / f"{count}.txt.gz"
        if packed:
            with gzip.open(source, "wt") as file:
                file.writelines(lines(count))
        words = ("predict", "smoke", "--store", str(smoke_run[0]), "--output", str(folder / "out.jsonl"))
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURED, *words, "--input", str(source) if packed else "-"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stderr is not None
        if not packed:
            process.stdin.writelines(lines(count))
        process.stdin.close()
        said = process.stderr.read()
        assert process.wait(200) == 0, said
        assert len((folder / "out.jsonl").read_text().splitlines()) == count
        return int(said.split("peak ")[1])

    return call


def test_memory_does_not_grow_with_the_file(peak: Peak) -> None:
    assert NUM_LINES * LINE_BYTES > 2 * ROOM + LINES_AT_ONCE * LINE_BYTES, "else a file held in memory would fit"
    small = peak(LINES_AT_ONCE, packed=False)
    assert peak(NUM_LINES, packed=False) - small < ROOM
    assert peak(NUM_LINES, packed=True) - small < ROOM


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cut.gz", gzip.compress("".join(lines(4)).encode(), mtime=0)[:-20], "cannot be unpacked"),
        ("plain.gz", b"not packed at all\n", "cannot be unpacked"),
        ("plain.xz", b"not packed at all\n", "cannot be unpacked"),
        ("latin.txt", "schön\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_told(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words) as caught, open_lines(str(tmp_path / name)) as file:
        list(file)
    assert name in str(caught.value)
