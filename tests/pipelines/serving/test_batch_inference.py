"""`predict` reads files of any size in constant memory, compressed or from a pipe."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.cli.views.terminal import open_input
from pipelines.serving.input_rows import ROWS_AT_ONCE
from stages.common.errors import InputError
from tests.support.paths import ROOT

MEASURED = """
import atexit, sys
from pathlib import Path
from pipelines.cli.app import main

def print_peak():  # getrusage would start at the peak of the parent process
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print("peak", 1024 * int(line.split()[1]), file=sys.stderr)

atexit.register(print_peak)
main()
"""
NUM_LINES, LINE_BYTES = 4096, 8000
MAX_INCREASE = 12_000_000
"""Bytes by which the peaks may differ. All lines have 32.8 MB."""

pytestmark = pytest.mark.timeout(300)
Peak = Callable[..., int]


def lines(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"film number {number} is a warm story ".ljust(LINE_BYTES - 1, "x") + "\n"


@pytest.fixture(scope="module")
def peak(smoke_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Peak:
    """Measures the peak memory in bytes of a process that predicts `count` lines, and checks their number."""
    folder = tmp_path_factory.mktemp("streams")

    def call(count: int, *, compressed: bool) -> int:
        source = folder / f"{count}.txt.gz"
        if compressed:
            with gzip.open(source, "wt") as file:
                file.writelines(lines(count))
        arguments = ("predict", "smoke", "--store", str(smoke_run[0]), "--output", str(folder / "out.jsonl"))
        with subprocess.Popen(
            [sys.executable, "-c", MEASURED, *arguments, "--input", str(source) if compressed else "-"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stderr is not None
            if not compressed:
                process.stdin.writelines(lines(count))
            process.stdin.close()
            stderr = process.stderr.read()
            assert process.wait(200) == 0, stderr
        assert len((folder / "out.jsonl").read_text().splitlines()) == count
        return int(stderr.split("peak ")[1])

    return call


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(peak: Peak) -> None:
    assert NUM_LINES * LINE_BYTES > 2 * MAX_INCREASE + ROWS_AT_ONCE * LINE_BYTES, (
        "a file in memory would exceed the limit"
    )
    small = peak(ROWS_AT_ONCE, compressed=False)
    assert peak(NUM_LINES, compressed=False) - small < MAX_INCREASE
    assert peak(NUM_LINES, compressed=True) - small < MAX_INCREASE


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cut.gz", gzip.compress("".join(lines(4)).encode(), mtime=0)[:-20], "cannot decompress"),
        ("plain.gz", b"not compressed\n", "cannot decompress"),
        ("plain.xz", b"not compressed\n", "cannot decompress"),
    ],
)
def test_unreadable_files_are_errors(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words) as caught, open_input(str(tmp_path / name)) as file:
        file.read()
    assert name in str(caught.value)
