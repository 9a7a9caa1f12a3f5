"""References without a pin: what was fetched last counts, newer contents are reported, and offline means offline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.run.capacity import Capacity
from pipelines.cli.app import app
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
HUB = {"/api/models/org/model": OTHER, "/api/datasets/org/data": OTHER, "/api/models/org/same": COMMIT}
"""Path of the hub -> the latest commit there."""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and commits of a hub; answers nothing while `silent` is set."""

    silent = threading.Event()

    def do_GET(self) -> None:
        if self.path not in HUB:
            super().do_GET()
            return
        self.wait()
        body = json.dumps({"id": self.path, "sha": HUB[self.path]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_head(self) -> Any:
        self.wait()
        return super().send_head()

    def wait(self) -> None:
        """Waits until the server may answer."""
        while self.silent.is_set():
            time.sleep(0.05)

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
        Quiet.silent.clear()
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


def test_newer_parts_of_an_archive_are_reported(folder: Path, server: ThreadingHTTPServer) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", "one")
    half = len(content.getvalue()) // 2
    parts = (folder / "m.zip.001", folder / "m.zip.002")
    parts[0].write_bytes(content.getvalue()[:half])
    parts[1].write_bytes(content.getvalue()[half:])
    root = f"http://127.0.0.1:{server.server_port}"
    ref = f"{root}/m.zip.001+{root}/m.zip.002!a.txt"
    path = resolve(ref)
    assert path.read_text() == "one" and find_newer([ref]) == {}
    os.utime(parts[1], (1_800_000_000,) * 2)
    assert find_newer([ref]) == {ref: f"Delete {path.parent} to fetch it."}


def test_newer_commit_of_the_hub_is_reported(folder: Path, server: ThreadingHTTPServer, tmp_path: Path) -> None:
    for name in ("model", "same"):
        model = tmp_path / "hub" / f"models--org--{name}"
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text(COMMIT)
        (model / "snapshots" / COMMIT).mkdir(parents=True)
        (model / "snapshots" / COMMIT / "config.json").write_text("{}")
    record_dataset_revision(Asset.parse("hf:org/data"), COMMIT)
    code = """
import json, time
from stages.common.assets.availability import find_newer
import huggingface_hub
start = time.monotonic()
found = find_newer(["hf:org/model", "hf:org/data", "hf:org/same", "hf:org/unused"])
print(json.dumps([time.monotonic() - start, found]))
"""
    environment = {
        **os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "CLOZELINE_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip

    def found() -> tuple[float, dict[str, str]]:
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds, newer = json.loads(process.stdout)
        return seconds, newer

    remedies = {f"hf:org/{name}": f"Write hf:org/{name}@{OTHER} to use it." for name in ("model", "data")}
    assert found()[1] == remedies
    Quiet.silent.set()
    seconds, newer = found()
    assert newer == {} and 2 <= seconds < 4, "it waits for an answer, and for all of them at the same time"


def test_silent_server_is_no_news_within_seconds(folder: Path, server: ThreadingHTTPServer) -> None:
    urls = []
    for name in "abc":
        (folder / name).write_text(name)
        urls.append(f"http://127.0.0.1:{server.server_port}/{name}")
        resolve(urls[-1])
    Quiet.silent.set()
    start = time.monotonic()
    assert find_newer(urls) == {}
    assert 2 <= time.monotonic() - start < 4


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_plan_and_run_say_that_a_newer_version_exists(
    server: ThreadingHTTPServer, tmp_path: Path, ray_session: Capacity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the workers of the session use the common cache
    folder = tmp_path / "served"
    pool = read_recipe(find_recipe("smoke"), PipelineConfig).data.pool
    shutil.copy(resolve(pool.asset), folder / "pool.csv.bz2")
    url = f"http://127.0.0.1:{server.server_port}/pool.csv.bz2"
    slot = resolve(url).parent
    words = ("smoke", "-o", f"data.pool.asset={url}", "--store", str(tmp_path / "store"))
    news = f"data.pool.asset: {url} has changed since it was fetched. Delete {slot} to fetch it."

    def output(*words: str) -> str:
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    try:
        assert "has changed since" not in output("plan", *words, "--refresh")
        os.utime(folder / "pool.csv.bz2", (1_800_000_000,) * 2)
        assert f"newer: {news}" in output("plan", *words, "--refresh")
        assert "has changed since" not in output("plan", *words)
        step = "data/rotten_tomatoes"
        shown = output("run", *words, "--only", step, "--no-register")
        assert f"newer     {news}" in shown and f"finished  {step}" in shown
    finally:
        shutil.rmtree(slot)
        for ending in (".json", ".lock"):
            slot.with_name(slot.name + ending).unlink(missing_ok=True)


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
