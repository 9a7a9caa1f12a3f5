"""The server process: binds its socket before it loads the model, handles signals, and prints to the terminal."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import uvicorn
from rich.console import Console
from rich.markup import escape
from starlette.applications import Starlette

from pipelines.serving.predictors import Predictor
from pipelines.serving.service.app import Service
from pipelines.serving.service.batcher import BatchingConfig, DynamicBatcher
from pipelines.serving.service.metrics import Metrics
from pipelines.serving.service.request_parsing import RequestLimits
from stages.common.errors import InputError

GRACE_PERIOD_S = 30
"""Seconds that requests have to be answered after SIGTERM."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open; load balancers must be the first to close theirs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenAddress:
    """Where to listen. Port 0 takes any that is free."""

    host: str = "127.0.0.1"
    port: int = 5001


def serve_until_stopped(
    load: Callable[[], Predictor[Any]],
    about: Mapping[str, Any],
    place: ListenAddress,
    limits: RequestLimits,
    batching: BatchingConfig,
    console: Console,
) -> None:
    """Answers until SIGTERM or Ctrl-C; then answers what it has, and returns.

    Args:
        load: Called in the model's thread, while /health already says that the model is not there yet.
        about: What `GET /` tells of the model.
        place: Where to listen.
        limits: Of a request.
        batching: How texts gather.
        console: Gets a line when the service is ready, and one when it ends.

    Raises:
        InputError: the address cannot be listened on.
        Exception: what `load` raised.
    """
    metrics = Metrics()
    queue = DynamicBatcher(load, batching, metrics)
    with closing(listen(place)) as listener:
        url = _url(listener)

        @asynccontextmanager
        async def whole_life(app: Starlette) -> AsyncIterator[None]:
            del app
            queue.start(lambda: _print_ready(url, about, console), lambda: setattr(server, "should_exit", True))
            yield
            queue.stop()

        server = uvicorn.Server(
            uvicorn.Config(
                Service(queue, limits, metrics, about).app(whole_life),
                log_level="warning",
                access_log=False,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_PERIOD_S,
                server_header=False,
            )
        )
        # uvicorn stops gracefully on these, and then raises them once more for whoever handled them before: nobody
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        console.print(f"loading  the model; {url}/health tells when it is there", highlight=False)
        server.run(sockets=[listener])
    if queue.error is not None:
        raise queue.error
    console.print("stopped  what had been asked is answered", highlight=False)


def listen(place: ListenAddress) -> socket.socket:
    """A socket that nobody else has.

    Raises:
        InputError: the port is taken or forbidden, or the host is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{place.host} is no address ({error.strerror}).", "Name one: --host 127.0.0.1.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not to wait for the last one's connections
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {place.port} of {place.host} is in use.",
                f"End what listens there, or take another: --port {place.port + 1}; --port 0 takes a free one.",
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(f"port {place.port} is not for every user.", "Take one from 1024 on: --port.") from error
        raise InputError(
            f"{place.host} is not an address of this machine ({error.strerror}).",
            "Name one that is: --host 127.0.0.1, or --host 0.0.0.0 for all of them.",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_ready(url: str, about: Mapping[str, Any], console: Console) -> None:
    names = ", ".join(item.get("step") or item.get("folder") or item["fingerprint"][:12] for item in about["models"])
    console.print(f"ready    {escape(names)} at {url}", highlight=False, soft_wrap=True)
