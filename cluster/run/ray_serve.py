"""Deploys an HTTP application with Ray Serve: the same ASGI application in each of several replicas.

Knows nothing about the application: it is a function, named as text, that returns an ASGI application in the replica.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cluster.errors import SessionError
from cluster.run.capacity import Capacity
from cluster.run.ray_session import session
from cluster.steps.functions import resolve

NAME = "clozeline"
"""The application in Ray Serve. One that runs already under this name is replaced, without a dropped request."""
GRACE_PERIOD_S = 30
"""Seconds that open requests of a replica may take when it stops."""
START_TIMEOUT_S = 300
"""Seconds in which the proxies must start."""
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(START_TIMEOUT_S)}
"""Variables of a local Ray. On a busy machine a proxy does not start in the 5 s that Ray Serve allows by default."""
_CAUSE = re.compile(r"^(?:\w+\.)*\w*Error: (.+)$", re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaPlan:
    """How many replicas run, and what each of them takes."""

    min_replicas: int
    """Replicas that always run."""
    max_replicas: int
    """Replicas under load. Equal to `min_replicas`: their number does not change."""
    target_requests: float
    """Open requests per replica above which one is added."""
    max_requests: int
    """Open requests per replica; others wait in the proxy."""
    num_cpus: float = 1
    """CPUs of a replica, which are also the threads of its model."""
    num_gpus: float = 0
    """GPUs of a replica."""

    def check(self, capacity: Capacity) -> None:
        """Checks that the replicas that always run fit.

        Raises:
            SessionError: they do not, and the cluster does not grow.
        """
        for name, needed, there in (
            ("CPUs", self.num_cpus, capacity.cpus),
            ("GPUs", self.num_gpus, capacity.gpus),
        ):
            if capacity.addable is None and needed * self.min_replicas > there:
                raise SessionError(
                    f"{self.min_replicas} replicas need {needed * self.min_replicas:g} {name}, and the cluster has "
                    f"{there:g}.",
                    "Use fewer replicas, or less for each of them.",
                )


class Replica:
    """What runs in a replica: the application that a function makes there. It is ready when the function returns."""

    def __init__(self, build: str, argument: Any) -> None:
        """
        Args:
            build: The function, as `module:name`.
            argument: Its argument.
        """
        self._app = resolve(build)(argument)

    def __serve_build_asgi_app__(self) -> Any:
        """Returns the application. Ray Serve calls it."""
        return self._app


@contextmanager
def serving_session(address: str | None) -> Iterator[Capacity]:
    """Connects to Ray inside a `with` block, as `session` does, and gives a local one time to start its proxy."""
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with session(address) as capacity:
            yield capacity
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def deployed(build: str, argument: Any, plan: ReplicaPlan, host: str, port: int) -> Iterator[None]:
    """Serves an application inside a `with` block. Enter it in a `serving_session`.

    Args:
        build: The function that makes the application in a replica, as `module:name`.
        argument: Its argument, which can be pickled.
        plan: How many replicas.
        host: Address that the proxy of each machine listens on.
        port: Its port.

    Raises:
        SessionError: Ray Serve is not installed, or the application cannot be made.
    """
    from ray.exceptions import RayError  # noqa: PLC0415  (Ray reads the environment that `session` sets)

    try:
        from ray import serve  # noqa: PLC0415  (the same, and it is an extra)
    except ImportError as error:
        raise SessionError(
            f"Ray Serve is not installed ({error}).".replace("\n", " "), 'Run pip install "clozeline[ray-serve]".'
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    is_fixed = plan.min_replicas == plan.max_replicas
    scaling = {
        "min_replicas": plan.min_replicas,
        "max_replicas": plan.max_replicas,
        "target_ongoing_requests": plan.target_requests,
    }
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=plan.min_replicas if is_fixed else None,
        autoscaling_config=None if is_fixed else scaling,
        max_ongoing_requests=plan.max_requests,
        ray_actor_options={"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus},
        graceful_shutdown_timeout_s=GRACE_PERIOD_S,
    )
    try:
        with suppress(TimeoutError):  # proxies of a busy machine; `_wait_for_proxies` waits longer
            serve.start(http_options={"host": host, "port": port})
        serve.run(deployment.bind(build, argument), name=NAME, route_prefix="/")
        _wait_for_proxies()
    except (RuntimeError, RayError, serve.exceptions.RayServeException) as error:
        causes = _CAUSE.findall(str(error))
        raise SessionError(
            f"the service cannot start: {causes[-1] if causes else error}",
            "Correct this, and start the command again.",
        ) from error
    except KeyboardInterrupt:
        serve.delete(NAME)
        raise
    try:
        yield
    finally:
        serve.delete(NAME)


def _wait_for_proxies() -> None:
    """Waits until the proxies answer.

    Raises:
        SessionError: they do not start.
    """
    from ray import serve  # noqa: PLC0415  (Ray reads the environment that `session` sets)

    until = time.monotonic() + START_TIMEOUT_S
    while {status.value for status in serve.status().proxies.values()} != {"HEALTHY"}:
        if time.monotonic() > until:
            raise SessionError(
                f"the proxies of Ray Serve did not start in {START_TIMEOUT_S} s.",
                "Read the logs in the folder `logs/serve` of Ray's session.",
            )
        time.sleep(0.2)


def replica_name() -> str:
    """Returns the name of the replica that calls this; empty outside a replica."""
    from ray import serve  # noqa: PLC0415  (Ray reads the environment that `session` sets)

    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except serve.exceptions.RayServeException:
        return ""
