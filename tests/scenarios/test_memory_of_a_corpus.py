"""The memory for building examples does not depend on the size of the corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import sys
from pathlib import Path
from stages.prompt_pretraining.examples import stage
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.common.engine import InProcessEngine
from stages.common.protocols import NullRecorder
from stages.common.data.config import CorpusConfig, Source
corpus = CorpusConfig(source=Source(asset=sys.argv[1]), num_examples=int(sys.argv[2]), window=100)
config = PretrainingExamplesConfig(corpus=corpus, seed=0)
result = stage.run(config, stage.Inputs(), Path(sys.argv[3]), NullRecorder(), InProcessEngine())
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(result.num_documents, result.num_rows, int(peak.split()[1]) * 1024)
"""
DOCUMENT_BYTES = 4000
TOLERANCE_BYTES = 12_000_000
"""Allowed difference of the peaks. They are read from /proc, because that of getrusage starts at the parent's."""
FEW, MANY = 1000, 16_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def peak(count: int, tmp_path: Path) -> int:
    """Returns the peak memory in bytes of a process that builds one example per two documents, in four shards."""
    shards, out = tmp_path / f"shards-{count}", tmp_path / f"out-{count}"
    shards.mkdir()
    out.mkdir()
    for shard in range(4):
        with (shards / f"part-{shard}.jsonl").open("w") as file:
            for number in range(shard, count, 4):
                text = " ".join(f"This is sentence {index} of document {number}." for index in range(200))
                file.write(json.dumps({"text": text[:DOCUMENT_BYTES]}) + "\n")
    command = [sys.executable, "-c", PROGRAM, str(shards), str(count // 2), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    documents, rows, highest = map(int, done.stdout.split())
    assert (documents, rows) == (count, count // 2 + 120)
    return highest


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    assert (MANY - FEW) * DOCUMENT_BYTES > 4 * TOLERANCE_BYTES
    assert peak(MANY, tmp_path) - peak(FEW, tmp_path) < TOLERANCE_BYTES
