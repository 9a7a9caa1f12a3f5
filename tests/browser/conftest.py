"""A real browser, MLflow's pages of one real smoke run, and a folder where every picture stays to be looked at."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

START_S = 240
"""MLflow takes its time on two cores that have other work."""


@pytest.fixture(scope="session")
def pictures() -> Path:
    """An empty folder that stays: `test-results/browser`."""
    folder = ROOT / "test-results" / "browser"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium without a window; the driver downloads none."""
    from playwright.sync_api import sync_playwright

    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert path, "no Chromium found: `make test-browser` says what to install"
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=rights)
        yield found
        found.close()


@pytest.fixture(scope="session")
def ui(smoke_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the pages that `make ui` shows for the run."""
    port = free_port()
    log = tmp_path_factory.mktemp("ui") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*make_ui(smoke_run[0]), "--port", str(port)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/health", server, log)
            yield address
        finally:
            stop(server)


def make_ui(store: Path) -> list[str]:
    """The command of `make ui`, with this Python's mlflow."""
    dry = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/installed", "ui", f"STORE={store}"]
    alone = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    printed = subprocess.run(dry, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    commands = printed.replace("\\\n", " ").splitlines()
    assert any(line.startswith("echo") and "/#/experiments?workflowType" in line for line in commands), printed
    program, *words = commands[-1].split()
    assert program.endswith("bin/mlflow"), printed
    return [sys.executable, "-m", "mlflow", *words]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            assert answer.status == 200
            return
        assert server.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server with its workers: they are a group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, 15)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, 9)
        server.wait(30)
