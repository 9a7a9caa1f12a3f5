"""A service in a process of its own, and what talks to it. As a script: a service of a toy model, which needs no torch.

The toy answers with the text in capitals. Of the text itself it says how long it takes: `slow 0.5` takes half a second,
`fail` raises an error. It is loaded when the file LOADED is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.predictors import Predictor, Row, example_of
from stages.common.errors import InputError
from tests.support.paths import ROOT

CLI = ("-c", "from pipelines.cli.app import main; main()", "serve")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class Service:
    """A running service, its port, and all lines that it printed so far."""

    process: subprocess.Popen[str]
    port: int
    printed: list[str]

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 60) -> Answer:
        """One request on a connection of its own; bytes and iterators of bytes are sent as they are."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return ask(connection, method, path, body)
        finally:
            connection.close()

    def predict(self, texts: Sequence[str]) -> list[Any]:
        """The answers, which must be there."""
        found = self.ask("POST", "/predict", {"texts": list(texts)})
        assert found.status == 200, found
        return list(found.body["predictions"])

    def metrics(self) -> dict[str, float]:
        """Name and labels -> value, as Prometheus reads them."""
        families = text_string_to_metric_families(self.ask("GET", "/metrics").body)
        return {
            sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def wait_until_ready(self) -> None:
        until = time.monotonic() + 120
        while self.ask("GET", "/health").status != 200:
            assert time.monotonic() < until, self.printed
            time.sleep(0.05)

    def stop(self, number: int = 15) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


def ask(connection: HTTPConnection, method: str, path: str, body: Any = None) -> Answer:
    """One request on a connection that stays open."""
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
    connection.request(method, path, body, encode_chunked=hasattr(body, "__next__"), headers=_headers(body))
    response = connection.getresponse()
    data = response.read().decode()
    is_json = response.headers["content-type"] == "application/json"
    return Answer(
        response.status, {k.lower(): v for k, v in response.headers.items()}, json.loads(data) if is_json else data
    )


def _headers(body: Any) -> dict[str, str]:
    return {"transfer-encoding": "chunked"} if hasattr(body, "__next__") else {}


@contextmanager
def service(*words: str, wait: bool = True) -> Iterator[Service]:
    """Starts one: `toy` and its settings, or the words after `clozeline serve`."""
    start = (__file__, *words[1:]) if words[0] == "toy" else (*CLI, *words, "--port", "0")
    process = subprocess.Popen(
        [sys.executable, *start],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "http://127.0.0.1:" in first, first + process.stdout.read()
        port = int(first.split("http://127.0.0.1:")[1].split("/")[0])
        found = Service(process, port, [first])
        reader = threading.Thread(target=lambda: found.printed.extend(process.stdout or ()), daemon=True)
        reader.start()
        if wait:
            found.wait_until_ready()
        yield found
    finally:
        process.kill()
        process.wait()
        with suppress(UnboundLocalError):
            reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


class Toy(Predictor[str]):
    kind = "toy"

    def __init__(self) -> None:
        self.tasks = {"": ("text",)}
        self.labels = {"": ("any",)}

    def parse_row(self, row: Row, uid: str) -> str:
        return example_of(row, ("text",), uid).fields["text"]

    def predict(self, items: Sequence[str]) -> list[dict[str, Any]]:
        time.sleep(max((float(item.split()[1]) for item in items if item.startswith("slow ")), default=0))
        if "fail" in items:
            raise ZeroDivisionError("the toy broke")
        return [{"label": item.upper()} for item in items]


def main() -> None:
    from pipelines.cli.views.terminal import console
    from pipelines.serving.service.batcher import BatchingConfig
    from pipelines.serving.service.request_parsing import RequestLimits
    from pipelines.serving.service.server import ListenAddress, ServiceConfig, serve_until_stopped

    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    loaded = settings.pop("loaded", None)

    def load() -> Toy:
        while loaded and not Path(loaded).exists():
            time.sleep(0.01)
        if loaded and Path(loaded).read_text() == "broken":
            raise InputError("the toy is broken.", "Fix it.")
        return Toy()

    limits = RequestLimits(max_texts=settings.pop("max_texts", 8), max_bytes=settings.pop("max_bytes", 2000))
    serve_until_stopped(
        load,
        {"recipe": "toy", "models": [{"folder": "toy"}]},
        ServiceConfig(address=ListenAddress(port=0), limits=limits, batching=BatchingConfig(**settings)),
        console,
    )


if __name__ == "__main__":
    main()
