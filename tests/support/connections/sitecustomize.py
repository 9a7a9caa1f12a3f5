"""Writes each attempt to reach another machine to the file CONNECTIONS.

Python imports this module when it starts, so the folder on PYTHONPATH watches all processes from their first line, and
an attempt counts even if its caller ignores that it failed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

LOCAL = {"", "localhost", "None", "0.0.0.0", "::", "::1", socket.gethostname()}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes lookups of names, connections over TCP, and packets."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        # A UDP socket sends nothing when it connects: Ray does so to learn the address of this machine.
        if event == "socket.connect" and arguments[0].type == socket.SOCK_DGRAM:
            return
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in LOCAL and not host.startswith("127."):
        with Path(os.environ["CONNECTIONS"]).open("a") as file:
            file.write(f"{event} {host} {' '.join(sys.argv)[:200]!r}\n")


if "CONNECTIONS" in os.environ:
    sys.addaudithook(watch)
