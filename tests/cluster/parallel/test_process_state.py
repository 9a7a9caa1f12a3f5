"""A process that runs many steps keeps nothing of one for the next."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import ChainMap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from tqdm import tqdm

from cluster.parallel.process_state import restored_process, set_num_threads
from cluster.store.location import open_store
from tests.support.paths import ROOT
from tests.support.result_numbers import numbers_of


def test_environment_folder_and_torch_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_BEFORE", "1")
    monkeypatch.setenv("REMOVED_INSIDE", "1")
    before, folder = dict(os.environ), Path.cwd()
    with pytest.raises(ValueError), restored_process():
        os.environ |= {"SET_BEFORE": "2", "SET_INSIDE": "3"}
        del os.environ["REMOVED_INSIDE"]
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        raise ValueError
    assert dict(os.environ) == before and Path.cwd() == folder
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()


def test_libraries_that_are_loaded_use_the_threads_of_the_step() -> None:
    with threadpool_limits(None):
        for number in (2, 1, 2):
            set_num_threads(number)
            assert torch.get_num_threads() == number
            assert all(pool["num_threads"] <= number for pool in threadpool_info())


def run_in_one_process(store: Path, *step: str) -> dict[str, dict[str, Any]]:
    """Runs one step of each kind, or only the given one, in a new process. Returns what the program prints."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.reused_worker", str(store), *step],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    line = next(line for line in finished.stdout.splitlines() if line.startswith("result "))
    found: dict[str, dict[str, Any]] = json.loads(line.removeprefix("result "))
    return found


def test_thread_of_progress_bars_is_ended() -> None:
    class Bar(tqdm):
        """A progress bar of a library, which has a thread of its own."""

    def monitors() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "tqdm_monitor"]

    for _ in range(2):
        with restored_process():
            list(Bar([1]))
            list(tqdm([1]))
            assert monitors()
        assert not monitors()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_step_finds_and_leaves_a_reused_process_as_a_new_one(smoke_run: tuple[Path, str], tmp_path: Path) -> None:
    """One process runs a step of each kind, one after the other; then each of them runs in a process of its own."""
    store = tmp_path / "store"
    shutil.copytree(smoke_run[0], store, symlinks=True)
    reused = run_in_one_process(store)
    assert len(reused) > 6
    committed = open_store(smoke_run[0])
    with ThreadPoolExecutor(max_workers=2) as pool:
        alone = dict(ChainMap(*pool.map(partial(run_in_one_process, store), reused)))
    for name, step in reused.items():
        fresh = alone[name]
        expected = json.loads(json.dumps(numbers_of(next(committed.results(name)))))
        assert step["numbers"] == fresh["numbers"] == expected, name
        assert step["environment"] == fresh["environment"], name
        assert step["changed"] == fresh["changed"] == [], name
        assert step["threads"] == fresh["threads"], name
        assert step["gpu_bytes"] == fresh["gpu_bytes"], name
        # A process that has loaded more libraries has more pools.
        assert step["pools"] == step["pools"] | fresh["pools"], name
        assert max(step["pools"].values()) <= max(1, int(step["cpus"])), name
