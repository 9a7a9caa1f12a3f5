"""A store on S3, and a proxy in front of the server that can make requests fail."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cluster.store.lease import LeaseBackend, Leases
from cluster.store.location import open_store
from cluster.store.remote import RemoteStore

BUCKET = "results"
URL = f"s3://{BUCKET}/some/store"
Fault = Callable[[str, str], int | None]


def opened() -> RemoteStore:
    """Opens the store on S3."""
    store = open_store(URL)
    assert isinstance(store, RemoteStore)
    return store


class Proxy:
    """Forwards requests to `port` of this machine and records them as "PUT /results/...". It listens at `address`.

    `fail_before` is called with method and path before a request is forwarded. If it returns a status, the proxy
    answers with that status. `fail_after` is called in the same way after the server has answered. `stripped` headers
    and query parameters are not forwarded.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.requests: list[str] = []
        self.fail_before: Fault | None = None
        self.fail_after: Fault | None = None
        self.stripped: tuple[str, ...] = ()
        self.one_at_a_time = threading.Lock()
        self._address = address
        self._server = ThreadingHTTPServer((address, 0), _handler(self, port))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Port of the proxy."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://{self._address}:{self.port}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


def failing(times: int, status: int, method: str = "", part: str = "") -> Fault:
    """Makes the first `times` requests fail that have this method, and `part` in their path."""
    remaining = [times]

    def fault(request_method: str, path: str) -> int | None:
        if not request_method.startswith(method) or part not in path or remaining[0] <= 0:
            return None
        remaining[0] -= 1
        return status

    return fault


def check_silent_server(slot: LeaseBackend, proxy: Proxy) -> None:
    """Checks that leases are renewed after an outage in which the server accepts requests but does not answer them.

    The answers to the requests of the outage never come.
    """
    ttl_s, outage_s = 9.0, 2.0
    is_over = threading.Event()
    unanswered: list[str] = []
    with Leases(ttl_s) as leases:
        token = leases.acquire(slot, "a")
        before = slot.read()
        assert before is not None
        started = time.monotonic()

        def hang(method: str, path: str) -> int | None:
            if time.monotonic() - started > outage_s:
                return None
            unanswered.append(path)
            is_over.wait(120)
            return 503

        proxy.fail_before = hang
        try:
            while not unanswered or time.monotonic() - started < outage_s:
                time.sleep(0.05)
            while (lease := slot.read()) is None or lease.heartbeat <= before.heartbeat:
                assert time.monotonic() - started < ttl_s, "the lease has expired"
                time.sleep(0.05)
            assert lease.token == token
        finally:
            proxy.fail_before = None
            is_over.set()


def _without(path: str, names: Collection[str]) -> str:
    """Removes query parameters from a path."""
    path, _, query = path.partition("?")
    kept = [part for part in query.split("&") if part.partition("=")[0].lower() not in names]
    return f"{path}?{'&'.join(kept)}" if query else path


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append(f"{self.command} {self.path}")
            if proxy.fail_before is not None and (status := proxy.fail_before(self.command, self.path)):
                self._answer(status, b"", [])
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in proxy.stripped}
            # moto checks a condition and then writes; S3 does both atomically.
            with proxy.one_at_a_time:
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                upstream.request(self.command, _without(self.path, proxy.stripped), body, headers)
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
            if proxy.fail_after is not None and (status := proxy.fail_after(self.command, self.path)):
                self._answer(status, b"", [])
                return
            self._answer(response.status, data, response.getheaders())

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

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    return Handler
