"""Starts, connects and stops Ray.

Ray reads its environment variables when it is imported, so this module imports Ray only after it has set them.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cluster.errors import SessionError

OBJECT_STORE_BYTES = 300 * 1024 * 1024
# Manifests are all that goes through Ray, so that it needs little memory.
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What the cluster has in all, and what its largest node has."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float


@contextmanager
def session(address: str | None = None, num_cpus: int | None = None) -> Iterator[Capacity]:
    """A connection to Ray, for the length of a `with`. One that is there already is used, and left open.

    Args:
        address: A running Ray; by default that of `RAY_ADDRESS`, else one is started on this machine and ended again.
        num_cpus: CPUs of a Ray that is started here; by default those of the machine.

    Raises:
        SessionError: Ray cannot be started or reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    added = {**WORKER_ENVIRONMENT, **_access(address), "PYTHONPATH": _python_path()}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    import ray

    try:
        if ray.is_initialized():
            yield capacity()
            return
        _init(address, num_cpus)
        try:
            yield capacity()
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def capacity() -> Capacity:
    """What the cluster has at this moment."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Capacity(
        cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        node_gpus=max((node.get("GPU", 0.0) for node in nodes), default=0.0),
    )


def _init(address: str, num_cpus: int | None) -> None:

    import ray

    local = address == "local"
    _hush()
    try:
        if local:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )
    except Exception as error:
        ray.shutdown()
        raise SessionError(
            f"Ray cannot be {'started on this machine' if local else f'reached at {address}'}: {error}.",
            "See the newest folder in /tmp/ray."
            if local
            else "Check the address, that the Ray versions are alike, and the token (RAY_AUTH_TOKEN).",
        ) from error


def _access(address: str) -> dict[str, str]:
    """Who may connect. Ray's ports run whatever they are sent, so a local one listens to this machine and this token.

    Left alone it would listen to the whole network, and leave a token file in the person's home.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    if address != "local":
        has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        return {"RAY_AUTH_MODE": "token" if has_token else "disabled"}
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    if "ray" not in sys.modules:
        # The name says Windows or macOS; on every system 0 means the loopback address. Ray reads it when imported.
        added["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return added


@cache
def _token() -> str:
    """One for each process, for Ray reads it once."""
    return secrets.token_hex(32)


def _hush() -> None:
    """Ray prints "(raylet) A worker died" in the middle of any display; the step's own failure says it better."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *args, **kwargs: None


def _python_path() -> str:
    """Workers import stages from where the driver does."""
    root = str(Path(__file__).parents[2])
    others = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item and item != root]
    return os.pathsep.join([root, *others])
