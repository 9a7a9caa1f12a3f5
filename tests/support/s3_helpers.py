"""A proxy before an S3 server that can be told to fail, and results to put into a store there."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cluster.store.base import StagedResult, Store
from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.store.manifest import FileEntry, Manifest
from cluster.store.remote import RemoteStore

BUCKET = "results"
URL = f"s3://{BUCKET}/some/store"
FP = "a" * 64
Verdict = Callable[[str, str], int | None]


def opened() -> RemoteStore:
    """The store on S3."""
    found = open_store(URL)
    assert isinstance(found, RemoteStore)
    return found


def builder(fingerprint: str = FP, **about: Any) -> Callable[[Any, dict[str, FileEntry]], Manifest]:
    about = {"key": {"config.rate": 1}, "made_from": {}, **about}
    return lambda result, files: Manifest(step="pet/x", fingerprint=fingerprint, files=files, result=result, **about)


def begin(store: Store, leases: Leases, fingerprint: str = FP, text: str = "hello") -> StagedResult:
    draft = store.begin("pet/x", fingerprint, leases.acquire(store.slot("pet/x", fingerprint), "pet/x"))
    (draft.out / "sub").mkdir()
    (draft.out / "sub" / "model.bin").write_text(text)
    return draft


def commit(store: Store, fingerprint: str = FP, text: str = "hello", **about: Any) -> Manifest:
    """Commits a result of step pet/x with one file."""
    leases = Leases()
    manifest = begin(store, leases, fingerprint, text).commit({"score": 0.5}, builder(fingerprint, **about))
    leases.release(store.slot("pet/x", fingerprint))
    return manifest


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
        self.one_at_a_time = threading.Lock()
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
            # moto checks a condition and then writes; S3 does both at once.
            with proxy.one_at_a_time:
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
