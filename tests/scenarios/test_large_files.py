"""A large data file is read when it changed, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request

NUM_BYTES = 20_000_000


def bytes_read() -> int:
    """Bytes that this process has read, from whatever file."""
    about = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(about["rchar"])


@pytest.mark.timeout(60)
def test_plan_reads_a_large_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "pool.jsonl"
    data.write_bytes(b"x" * NUM_BYTES)

    def planned() -> tuple[str, int]:
        asked = load_request("smoke", [f"data.pool.asset={data}"], tmp_path / "store")
        before = bytes_read()
        line = plan_recipe(asked.config, asked.store)[-1]
        return line.fingerprint, (bytes_read() - before) // NUM_BYTES

    first, read = planned()
    assert read == 1
    assert planned() == (first, 0)
    os.utime(data)
    assert planned() == (first, 1)
    with data.open("ab") as file:
        file.write(b"y")
    changed, read = planned()
    assert (changed != first, read) == (True, 1)
