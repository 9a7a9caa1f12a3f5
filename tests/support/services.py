"""A service in a separate process, and a client. Run as a script: a service of a toy model, which needs no torch.

The toy predicts the text in capitals. The text `slow 0.5` takes half a second, and `fail` raises an error. The toy is
loaded when the file of its setting `loaded` exists.
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
class Response:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class Service:
    """A running service, its port, and the lines that it has printed."""

    process: subprocess.Popen[str]
    port: int
    printed: list[str]

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str) -> Response:
        """Sends a request on a new connection. Bytes and iterators of bytes are sent unchanged."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def predict(self, texts: Sequence[str]) -> list[Any]:
        """Returns the predictions of a request that must succeed."""
        response = self.ask("POST", "/predict", {"texts": list(texts)})
        assert response.status == 200, response
        return list(response.body["predictions"])

    def metrics(self) -> dict[str, float]:
        """Returns name and labels -> value, parsed as Prometheus does."""
        families = text_string_to_metric_families(self.ask("GET", "/metrics").body)
        return {
            sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def wait_until_ready(self, timeout_s: float = 240) -> None:
        until = time.monotonic() + timeout_s
        while not self.is_ready():
            assert time.monotonic() < until and self.process.poll() is None, self.printed
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Returns True if the model is loaded. The proxies of replicas do not listen before."""
        try:
            return self.ask("GET", "/ready").status == 200
        except ConnectionError:
            return False

    def stop(self, number: int = 15) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


def ask(
    connection: HTTPConnection, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Sends a request on an open connection. `_` in the name of a header is sent as `-`."""
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
    connection.request(
        method,
        path,
        body,
        encode_chunked=hasattr(body, "__next__"),
        headers={**_headers(body), **{name.replace("_", "-"): value for name, value in (headers or {}).items()}},
    )
    response = connection.getresponse()
    data = response.read().decode()
    is_json = response.headers["content-type"] == "application/json"
    return Response(
        response.status, {k.lower(): v for k, v in response.headers.items()}, json.loads(data) if is_json else data
    )


def _headers(body: Any) -> dict[str, str]:
    return {"transfer-encoding": "chunked"} if hasattr(body, "__next__") else {}


@contextmanager
def service(*arguments: str, wait: bool = True, program: Sequence[str] = CLI) -> Iterator[Service]:
    """Starts a service: a script and its arguments, `toy` and its settings as JSON, or `clozeline serve`."""
    command: Sequence[str] = (*program, *arguments, "--port", "0")
    if arguments[0] == "toy":
        command = (__file__, *arguments[1:])
    elif arguments[0].endswith(".py"):
        command = arguments
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert "http://127.0.0.1:" in first, first + process.stdout.read()
            port = int(first.split("http://127.0.0.1:")[1].split("/")[0])
            running = Service(process, port, [first])
            reader = threading.Thread(target=lambda: running.printed.extend(process.stdout or ()), daemon=True)
            reader.start()
            if wait:
                running.wait_until_ready()
            yield running
        finally:
            process.kill()
            process.wait()
            with suppress(UnboundLocalError):
                reader.join(10)


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
    from pipelines.cli.views.terminal import console, open_log
    from pipelines.serving.service.batcher import BatchingConfig
    from pipelines.serving.service.middleware import json_lines
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
    api_key, access_log = settings.pop("api_key", None), settings.pop("access_log", None)
    with open_log(Path(access_log) if access_log else None) as write:
        config = ServiceConfig(
            address=ListenAddress(port=0),
            limits=limits,
            batching=BatchingConfig(**settings),
            api_key=api_key,
            access_log=json_lines(write) if access_log else None,
        )
        serve_until_stopped(load, {"recipe": "toy", "models": [{"folder": "toy"}]}, config, console)


if __name__ == "__main__":
    main()
