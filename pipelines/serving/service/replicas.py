"""The service on Ray Serve: the same application in several replicas, to which the proxy of Ray Serve sends requests.

Each replica has a model, a queue that batches, and metrics of its own. A replica gets requests when its model is
loaded. Tasks that change are in a file that all replicas follow.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.run.ray_serve import ReplicaPlan, deployed, replica_name, serving_session
from pipelines.serving.loading import load_predictor
from pipelines.serving.service.server import ServiceConfig, listen, new_service, print_ready, url_of
from stages.common.errors import InputError

REPLICA_HEADER = "x-replica"
"""Header of responses with the name of the replica that answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaArguments:
    """What a replica serves."""

    folders: tuple[Path, ...]
    """Folders of the model, which all machines can read."""
    max_loaded_prompts: int
    """Prompts in memory."""
    about: Mapping[str, Any]
    """The description of the model."""
    config: ServiceConfig
    """Limits, batches and keys."""


def build_app(arguments: ReplicaArguments) -> ASGIApp:
    """Loads the model and returns the application. Called in a replica.

    Raises:
        InputError: the model cannot be read on this machine.
    """
    for folder in arguments.folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder} is not on the machine of the replica.", "Put the store on a disk that all machines share."
            )
    service = new_service(
        lambda: load_predictor(arguments.folders, arguments.max_loaded_prompts), arguments.about, arguments.config
    )
    ended = threading.Event()
    service.queue.start(ended.set, ended.set)
    ended.wait()
    if service.queue.error is not None:
        raise service.queue.error

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        async with service.running():
            yield

    return NameReplica(service.app(lifespan), replica_name())


class NameReplica:
    """Adds the name of the replica to responses, so that metrics of several replicas can be distinguished."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REPLICA_HEADER] = self._name
            await send(message)

        await self._app(scope, receive, send_named)


def serve_replicas_until_stopped(
    arguments: ReplicaArguments, plan: ReplicaPlan, ray_address: str | None, console: Console
) -> None:
    """Serves on Ray until SIGTERM or Ctrl-C, then finishes the open requests and returns.

    Args:
        arguments: What to serve.
        plan: How many replicas.
        ray_address: The Ray cluster; None: that of `RAY_ADDRESS`, or a local Ray.
        console: Shows when the service loads, is ready and has stopped.

    Raises:
        InputError: the service cannot listen on the address.
        SessionError: Ray cannot be reached, has no Ray Serve or lacks resources, or the model cannot be loaded.
    """
    host = arguments.config.address.host
    with closing(listen(arguments.config.address)) as listener:  # the proxies listen on the same port
        url, port = url_of(listener), listener.getsockname()[1]
    console.print(f"loading   model; {url}/ready returns 200 when it is ready", highlight=False)
    with serving_session(ray_address) as capacity:
        plan.check(capacity)
        for number in (signal.SIGTERM, signal.SIGINT):  # after Ray has set handlers of its own
            signal.signal(number, _interrupt_once)
        with suppress(KeyboardInterrupt), deployed(f"{__name__}:{build_app.__name__}", arguments, plan, host, port):
            print_ready(url, arguments.about, console)
            threading.Event().wait()
    console.print("stopped   all accepted requests were answered", highlight=False)


def _interrupt_once(*_: object) -> None:
    """Raises KeyboardInterrupt; further signals do not interrupt the cleanup.

    Raises:
        KeyboardInterrupt: always.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
