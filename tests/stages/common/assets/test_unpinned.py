"""References without a pin: what was fetched last counts, newer contents are reported, and offline means offline."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.preflight.checks import newer_assets
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.availability import find_newer, find_unavailable
from stages.common.assets.cache import (
    dataset_revision,
    fetched_identity,
    identity,
    record_dataset_revision,
    resolve,
)
from stages.common.assets.references import Asset
from stages.common.errors import AssetError
from tests.support.paths import ROOT

COMMIT, OTHER = "a" * 40, "b" * 40


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the server serves. The cache is empty."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of this machine with one file."""
    write(folder, "one")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    """The URL of the file."""
    return f"http://127.0.0.1:{server.server_port}/x.jsonl"


def write(folder: Path, text: str) -> str:
    """Writes the file, with a new time of change. Returns its digest."""
    file = folder / "x.jsonl"
    file.write_text(text)
    os.utime(file, (1_700_000_000 + len(text) * 1000,) * 2)
    return hashlib.sha256(text.encode()).hexdigest()


def test_identity_of_a_url_is_the_content_that_was_fetched_last(folder: Path, url: str) -> None:
    first = hashlib.sha256(b"one").hexdigest()
    assert identity(url) == url, "it is not fetched yet"
    path = resolve(url)
    assert identity(url) == identity(f"{url}#sha256={first}"), "a pin that is added later changes no key"
    second = write(folder, "second")
    assert identity(url) == fetched_identity(url) == f"sha256:{first}/", "nothing newer is fetched by itself"
    path.unlink()
    assert fetched_identity(url) == f"sha256:{second}/"


def test_newer_content_of_a_url_is_reported_with_the_way_to_use_it(folder: Path, url: str) -> None:
    assert find_newer([url]) == {}, "it is not fetched yet"
    first = resolve(url)
    assert find_newer([url]) == {}
    write(folder, "second")
    pinned = f"{url}#sha256={hashlib.sha256(b'one').hexdigest()}"
    remedies = find_newer([url, pinned, "pypi:six==1.17.0/six.py", str(folder)])
    assert remedies == {url: f"Delete {first.parent} to fetch it."}
    config = read_recipe(find_recipe("smoke"), PipelineConfig, [f"data.pool.asset={url}"])
    assert newer_assets(config) == [f"data.pool.asset: {url} has changed since it was fetched. {remedies[url]}"]


def test_server_that_is_away_is_no_news(folder: Path, url: str, server: ThreadingHTTPServer) -> None:
    resolve(url)
    write(folder, "second")
    assert find_newer([url]) != {}
    server.shutdown()
    server.server_close()
    assert find_newer([url]) == {}
    assert resolve(url).read_text() == "one"


def test_offline_uses_what_is_cached_and_forbids_the_rest(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resolve(url)
    write(folder, "second")
    monkeypatch.setenv("CLOZELINE_OFFLINE", "1")
    assert resolve(url) == path and find_newer([url]) == {}
    missing = [f"{url}l", "pypi:six==1.17.0/six.py", "hf:org/name"]
    for ref in missing:
        with pytest.raises(AssetError, match="CLOZELINE_OFFLINE forbids to fetch it") as caught:
            resolve(ref)
        assert "Unset CLOZELINE_OFFLINE" in caught.value.remedy
    assert list(find_unavailable([url, *missing])) == missing
    monkeypatch.setenv("CLOZELINE_OFFLINE", "0")
    assert list(find_newer([url])) == [url]


def test_identity_of_a_dataset_of_the_hub_is_the_commit_that_is_used(folder: Path) -> None:
    asset = Asset.parse("hf:org/data")
    assert dataset_revision(asset) is None
    record_dataset_revision(asset, COMMIT)
    assert identity("hf:org/data") == f"hf:org/data@{COMMIT}"
    assert identity(f"hf:org/data@{OTHER}") == f"hf:org/data@{OTHER}", "a commit is a pin"
    assert identity("hf:org/data@branch") == "hf:org/data@branch", "the branch is not used yet"


def test_identity_of_a_model_of_the_hub_is_the_commit_that_was_fetched(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--org--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    (model / "snapshots" / COMMIT / "config.json").write_text("{}")
    code = "from stages.common.assets.cache import identity; print(identity('hf:org/model'), identity('hf:org/other'))"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "CLOZELINE_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == [f"hf:org/model@{COMMIT}", "hf:org/other"]
