"""Hosts on this machine that share no disk and no memory: namespaces of Linux, joined by a bridge.

    pytest, S3 server                  .254 on the bridge
        |
    ----+------------+----------- bridge, 10.97.84.0/24
                     |           |
                  host1 .1    host2 .2

Each host has its own network, processes, name, `/tmp` and `/dev/shm`. Everything else is the disk of this machine,
which is read-only there, as the image of a container is: code and packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import ROOT

NETWORK = "10.97.84"
GATEWAY = f"{NETWORK}.254"
BRIDGE = "clozeline0"
FILES = Path("/tmp/files")
"""Folder of each host with a copy of the files that the hosts get."""
CACHE = Path("/tmp/cache")
RAY_PORT = 6379
START_S = 60
NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),  # a host does not outlive the tests
    *("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"),
)
SETUP = """
set -e
hostname "$1"
mount -t tmpfs -o size=2g tmpfs /mnt
mkdir /mnt/home /mnt/files
cp -a "$2/." /mnt/files
mount --move /mnt /tmp
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount --bind /tmp/files/hosts /etc/hosts
mount -o remount,bind,ro /
ip link set lo up
touch /tmp/ready
exec sleep infinity
"""
PROBE = """
hostname probe && mount -t tmpfs tmpfs /mnt && mount --move /mnt /tmp && mount -o remount,bind,ro / &&
ip link add probe type bridge
"""


def why_impossible() -> str:
    """Returns why this machine cannot have hosts; empty if it can."""
    if os.geteuid() != 0:
        return "hosts need root, for namespaces and a bridge"
    hidden = [str(path) for path in (ROOT, Path(sys.prefix)) if path.is_relative_to("/tmp")]
    if hidden:
        return f"a host has its own /tmp, which would hide {hidden[0]}"
    try:
        probe = subprocess.run([*NAMESPACES, "sh", "-c", PROBE], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return f"namespaces are not permitted here: {probe.stderr.strip()}" if probe.returncode else ""


@dataclass(slots=True)
class Host:
    """One host. `number` is the last part of its address."""

    number: int
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def name(self) -> str:
        """Its host name."""
        return f"host{self.number}"

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return f"{NETWORK}.{self.number}"

    def start(self, files: Path) -> None:
        """Creates the namespaces, and connects the host to the bridge."""
        self.process = subprocess.Popen([*NAMESPACES, "sh", "-c", SETUP, "sh", self.name, str(files)])
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert self.process.poll() is None and time.monotonic() < deadline, f"{self.name} did not start"
            time.sleep(0.02)
        pid, link = self._init(), f"{BRIDGE}-{self.number}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _ip("link", "set", link, "master", BRIDGE, "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def start_ray(self, head: Host) -> None:
        """Starts the processes of Ray, with one CPU."""
        role = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"]
        self.run(
            "ray", "start", *(role if head is self else [f"--address={head.address}:{RAY_PORT}"]),
            f"--node-ip-address={self.address}", "--num-cpus=1", "--object-store-memory=100000000",
            "--disable-usage-stats",
        )  # fmt: skip

    def command(self, *words: str) -> list[str]:
        """Returns the command that runs another one on the host."""
        inside = ["nsenter", "--target", self._init(), "--net", "--mount", "--pid", "--uts", "--"]
        return [*inside, "sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *words]

    def run(self, *words: str) -> str:
        """Runs a command on the host. Returns its output."""
        done = subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def kill(self) -> None:
        """Kills all processes of the host at once, and removes its network."""
        self.process.kill()
        self.process.wait()

    def _init(self) -> str:
        """Returns the id of its first process, as this machine sees it."""
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().strip()

    def _is_ready(self) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{self._init()}/root/tmp/ready").exists()
        return False


@contextmanager
def network() -> Iterator[None]:
    """The bridge, which gives this machine the address `GATEWAY`. Replaces the one of tests that were killed."""
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        _ip("link", "del", BRIDGE)
    _ip("link", "add", BRIDGE, "type", "bridge")
    try:
        _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        yield
    finally:
        _ip("link", "del", BRIDGE)


@contextmanager
def hosts(number: int, files: Path, variables: Mapping[str, str]) -> Iterator[list[Host]]:
    """Hosts of one Ray cluster, of which the first is the head. Needs `network`.

    Args:
        number: Number of hosts.
        files: Folder that every host gets a copy of, as `FILES`.
        variables: Environment variables of all processes.
    """
    lines = [f"{NETWORK}.{index} host{index}\n" for index in range(1, number + 1)]
    (files / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": "/tmp/home",
        "CLOZELINE_CACHE": str(CACHE),
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        # a host that disappears closes no connection
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "3000",
        "RAY_health_check_failure_threshold": "3",
        **variables,
    }
    started: list[Host] = []
    try:
        for index in range(1, number + 1):
            started.append(Host(index, environment))
            started[-1].start(files)
        for host in started:
            host.start_ray(started[0])
        yield started
    finally:
        for host in started:
            host.kill()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
