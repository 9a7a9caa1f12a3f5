"""A browser, the MLflow pages of a smoke run, and a folder that keeps all screenshots."""

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
"""Seconds to wait for MLflow, which starts slowly on two busy cores."""


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """An empty folder that is kept: `test-results/browser`."""
    folder = ROOT / "test-results" / "browser"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The installed Chromium without a window. The driver downloads no browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert path, "Chromium is missing: `make test-browser` prints what to install"
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not work as root
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def ui(smoke_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the pages that `make ui` shows for the run."""
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
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/installed", "ui", f"STORE={store}"]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    commands = printed.replace("\\\n", " ").splitlines()
    assert any(line.startswith("echo") and "/#/experiments?workflowType" in line for line in commands), printed
    program, *arguments = commands[-1].split()
    assert program.endswith("bin/mlflow"), printed
    return [sys.executable, "-m", "mlflow", *arguments]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5) as response:
            assert response.status == 200
            return
        assert server.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers, which are a process group."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, 15)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, 9)
        server.wait(30)
