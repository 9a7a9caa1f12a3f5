"""The server process: binds its socket before it loads the model, handles signals, and prints to the terminal."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console
from rich.markup import escape
from starlette.applications import Starlette

from pipelines.serving.predictors import Predictor
from pipelines.serving.service.app import Service
from pipelines.serving.service.batcher import BatchingConfig, DynamicBatcher, Metrics
from pipelines.serving.service.middleware import AccessLog
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.task_admin import TaskAdmin, TaskLoader
from pipelines.serving.service.task_file import TaskFile
from pipelines.serving.service.task_limits import TaskLimits
from stages.common.errors import InputError

GRACE_PERIOD_S = 30
"""Seconds that open requests may take after SIGTERM."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open. Load balancers must close theirs first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenAddress:
    """The address to listen on. Port 0 selects a free port."""

    host: str = "127.0.0.1"
    port: int = 5001


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminConfig:
    """The settings of the routes that change the tasks."""

    key: str
    """Key that their requests must send."""
    find_folder: Callable[[Path], Path]
    """Returns the folder of a prompt, given it or the folder of its step."""
    file: Path | None = None
    """File that keeps the tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceConfig:
    """The settings of a service."""

    address: ListenAddress
    limits: RequestLimits
    batching: BatchingConfig
    api_key: str | None = None
    """Key that requests must send. None: they need none."""
    admin: AdminConfig | None = None
    """Routes that change the tasks. None: the tasks stay as they are."""
    access_log: AccessLog | None = None
    """Called with an entry per request."""

    def __post_init__(self) -> None:
        keys = {"CLOZELINE_API_KEY": self.api_key, "CLOZELINE_ADMIN_KEY": self.admin.key if self.admin else None}
        for name, key in keys.items():
            if key is not None and not (key.isascii() and key.isprintable() and key):
                kind = "API" if name == "CLOZELINE_API_KEY" else "admin"
                raise InputError(f"the {kind} key is empty or has other characters than ASCII.", f"Set another {name}.")
        if self.admin is not None and self.admin.key == self.api_key:
            raise InputError(
                "the admin key is the API key, which all clients have.", "Set another CLOZELINE_ADMIN_KEY."
            )


def new_service(load: Callable[[], Predictor[Any]], about: Mapping[str, Any], config: ServiceConfig) -> Service:
    """Returns a service that does not run yet.

    Args:
        load: Loads the model. Called in the model thread, while /ready returns 503.
        about: The description that `GET /` returns before the model is loaded.
        config: Its settings.
    """
    metrics = Metrics()
    if config.admin is None:
        queue = DynamicBatcher(load, config.batching, metrics)
        return Service(queue, config.limits, metrics, about, config.api_key, config.access_log)
    file = None if config.admin.file is None else TaskFile(config.admin.file)
    tasks = TaskLoader(load, file, TaskLimits(metrics))
    queue = DynamicBatcher(tasks.load, config.batching, metrics)
    admin = TaskAdmin(queue, tasks.limits, config.admin.key, config.admin.find_folder, file)
    return Service(queue, config.limits, metrics, about, config.api_key, config.access_log, admin)


def serve_until_stopped(
    load: Callable[[], Predictor[Any]], about: Mapping[str, Any], config: ServiceConfig, console: Console
) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes the open requests and returns.

    Args:
        load: Loads the model. Called in the model thread, while /ready returns 503.
        about: The description that `GET /` returns before the model is loaded.
        config: Address and limits.
        console: Shows when the service loads, is ready and has stopped.

    Raises:
        InputError: the service cannot listen on the address.
        Exception: any error of `load`.
    """
    service = new_service(load, about, config)
    with closing(listen(config.address)) as listener:
        url = url_of(listener)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            del app
            on_failed = partial(setattr, server, "should_exit", True)
            service.queue.start(partial(print_ready, url, about, console), on_failed)
            async with service.running():
                yield

        server = uvicorn.Server(
            uvicorn.Config(
                service.app(lifespan),
                loop="asyncio",  # the same server whether or not an extra brings others
                http="h11",
                log_level="warning",
                access_log=False,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_PERIOD_S,
                server_header=False,
            )
        )
        # uvicorn stops gracefully on these signals and then raises them again for the handlers from before.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        console.print(f"loading   model; {url}/ready returns 200 when it is ready", highlight=False)
        server.run(sockets=[listener])
    if service.queue.error is not None:
        raise service.queue.error
    console.print("stopped   all accepted requests were answered", highlight=False)


def listen(address: ListenAddress) -> socket.socket:
    """Opens a listening socket.

    Raises:
        InputError: the port is in use or forbidden, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{address.host} is not an address ({error.strerror}).", "Use --host 127.0.0.1.") from error
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # do not wait for connections of an earlier process
        listener.bind(target)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {address.port} of {address.host} is in use.",
                f"Use another port: --port {address.port + 1}, or --port 0 for a free one.",
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(
                f"this user may not listen on port {address.port}.", "Use --port 1024 or higher."
            ) from error
        raise InputError(
            f"{address.host} is not an address of this machine ({error.strerror}).",
            "Use --host 127.0.0.1, or --host 0.0.0.0 for all addresses.",
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def print_ready(url: str, about: Mapping[str, Any], console: Console) -> None:
    """Prints which models are ready."""
    names = ", ".join(item.get("step") or item.get("folder") or item["fingerprint"][:12] for item in about["models"])
    console.print(f"ready     {escape(names)} at {url}", highlight=False, soft_wrap=True)
