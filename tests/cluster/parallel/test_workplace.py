"""Two workers whose machines share no folder: two caches stand for two machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.store.remote import RemoteStore
from tests.support.paths import ROOT
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import FINGERPRINT, STEP

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


def started(rank: int, folder: Path, store: RemoteStore, token: str, end: str) -> subprocess.Popen[str]:
    (folder / "work").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOZELINE_CACHE": str(folder / f"machine-{rank}")}
    words = ["tests.support.programs.host_ranks", str(rank), str(folder), store.url, token, end]
    return subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def summaries(folder: Path, store: RemoteStore, token: str, end: str) -> list[dict[str, Any]]:
    """Runs two workers. Returns what each printed."""
    workers = [started(rank, folder, store, token, end) for rank in range(2)]
    printed = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    return [json.loads(output) for output, _ in printed]


def test_workers_continue_from_the_checkpoint_and_upload_the_result(store: RemoteStore, tmp_path: Path) -> None:
    """Rank 0 writes the checkpoint on its machine, and the other machine continues from it, too."""
    stopped = summaries(tmp_path, store, "a" * 16, "stop")
    assert [item["error"] for item in stopped] == ["a stop was requested."] * 2
    lead, other = summaries(tmp_path, store, "b" * 16, "result")
    assert (lead["start"], other["start"]) == (2, 2)
    assert (lead["uploaded"], other["uploaded"]) == (["result.txt"], [])
    assert not lead["left"] and not other["left"]
    name = f"{STEP}/{FINGERPRINT}/files/{'b' * 16}/result.txt"
    assert store.objects.read(name) == b"0 counted to 3"
    log = (tmp_path / "log").read_text().splitlines()
    assert sorted(log) == ["worker 0 works"] * 2 + ["worker 1 works"] * 2


def test_shared_workplace_needs_the_folder(tmp_path: Path) -> None:
    from cluster.errors import StoreError
    from cluster.parallel.workplace import StepFiles, shared_workplace

    files = StepFiles(out=tmp_path / "out", checkpoint_dir=tmp_path / "work", log=tmp_path / "log")
    with (
        pytest.raises(StoreError, match=r"does not have the folder of the store /store\. Use a folder"),
        shared_workplace(files, "/store"),
    ):
        pass
