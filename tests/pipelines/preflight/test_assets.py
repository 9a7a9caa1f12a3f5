"""Assets of a recipe: errors within seconds if one is unavailable, else one download each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.preflight.checks import fetch
from stages.common.errors import InputError
from tests.support.paths import ROOT

IN_TIME_S = 10.0
"""Far less than the timeouts and retries of downloads, and enough for imports on a busy machine."""

RUN = """
import sys, time
from pathlib import Path
start = time.monotonic()
from pipelines.schema.config import PipelineConfig
from pipelines.preflight.checks import check_recipe
from pipelines.schema.locations import errors_located_in
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError
path = Path(sys.argv[1])
try:
    with errors_located_in(path):
        check_recipe(read_recipe(path, PipelineConfig), lambda *task: None)
except InputError as error:
    print(f"{time.monotonic() - start:.2f}", error)
"""


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("section", ["backbone", "students.small"])
def test_an_unreachable_hub_is_an_error_within_seconds(section: str, answers: bool, recipe: Path) -> None:
    """Measured in a new interpreter, with imports. The connection is refused, or never answered."""
    last, indent = section.rpartition(".")[2], "  " * (1 + section.count("."))
    old, new = (f"{last}:\n{indent}asset: {asset}" for asset in (recipe.parent / "backbone", "hf:org/model"))
    text = recipe.read_text().replace(old, new)
    recipe.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1] if answers else 9}"
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(recipe.parent / "hub"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", RUN, str(recipe)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=True
        )
    seconds, _, message = done.stdout.partition(" ")
    line = text.splitlines().index(f"{indent}asset: hf:org/model") + 1
    assert message.startswith(f"{recipe}:{line}: {section}.asset: hf:org/model cannot be reached (")
    assert "pypi:NAME==VERSION/PATH" in message
    assert float(seconds) < IN_TIME_S


class Slow(BaseHTTPRequestHandler):
    """Answers after 0.4 seconds."""

    def do_HEAD(self) -> None:
        time.sleep(0.4)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, *words: object) -> None:
        del words


def test_fetch_checks_all_assets_at_the_same_time(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of them answer slowly, and the last is unreachable."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refs = {f"good.{n}": f"http://127.0.0.1:{server.server_port}/{n}.jsonl" for n in range(6)}
        start = time.monotonic()
        with pytest.raises(InputError, match=r"^bad\.asset: http://127\.0\.0\.1:9/x\.jsonl cannot be reached"):
            fetch({**refs, "bad.asset": "http://127.0.0.1:9/x.jsonl"}, lambda *task: None)
        assert time.monotonic() - start < IN_TIME_S
        server.shutdown()


def test_fetch_downloads_missing_assets_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    tasks: list[str] = []
    refs = {"data.pool.asset": (recipe.parent / "films.jsonl").as_uri()}
    fetch(refs, lambda task, done, total: tasks.append(task))
    fetch(refs, lambda task, done, total: tasks.append(task))
    downloads = [task for task in tasks if task.startswith("downloading")]
    assert downloads == [f"downloading {refs['data.pool.asset']}"]
