"""A real S3 server for the tests that need one, and a proxy before it that can be told to fail."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cluster import objects

BUCKET = "results"
Verdict = Callable[[str, str], int | None]


class Proxy:
    """Passes requests on to `port`, and writes each down as "PUT /results/...".

    `verdict`, if set, is asked first with method and path: a number is answered with that status. `after`, if set, is
    asked likewise when the server has done its work and before its answer goes out. `stripped` headers are left out.
    """

    def __init__(self, port: int) -> None:
        self.requests: list[str] = []
        self.verdict: Verdict | None = None
        self.after: Verdict | None = None
        self.stripped: tuple[str, ...] = ()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


def failing(times: int, status: int, method: str = "", part: str = "") -> Verdict:
    """The first so many requests of a method, with `part` in their path, fail."""
    left = [times]

    def verdict(asked: str, path: str) -> int | None:
        if not asked.startswith(method) or part not in path or left[0] <= 0:
            return None
        left[0] -= 1
        return status

    return verdict


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append(f"{self.command} {self.path}")
            if proxy.verdict is not None and (status := proxy.verdict(self.command, self.path)):
                self._answer(status, b"", [])
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in proxy.stripped}
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if proxy.after is not None and (status := proxy.after(self.command, self.path)):
                self._answer(status, b"", [])
                return
            self._answer(answer.status, data, answer.getheaders())

        def _answer(self, status: int, data: bytes, headers: list[tuple[str, str]]) -> None:
            self.send_response(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    return Handler


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A moto server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """An empty bucket behind a proxy, to which the environment points; short pauses between attempts."""
    between = Proxy(s3_port)
    for name, value in {
        "AWS_ENDPOINT_URL": between.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CLOZELINE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    monkeypatch.setattr(objects, "SETTLE_S", 0.1)
    bucket = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{s3_port}").Bucket(BUCKET)
    bucket.create()
    yield between
    between.close()
    bucket.objects.all().delete()
    bucket.delete()
