"""What breaks during a soak: one class per fault, with the store on which it acts."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.soak.drivers import Driver, Workplace
from tests.support.s3_helpers import URL, Proxy

MB = 1 << 20


class Fault:
    """Something that breaks while a driver runs. This one breaks nothing.

    Args:
        place: Where the soak runs.
        store: The store of the run.
        seeded: Makes the choices of the fault.
    """

    name = "none"
    restarts = 0
    """How often it may make a step that had started start again, besides the retries that the driver reports."""

    def __init__(self, place: Workplace, store: str, seeded: random.Random) -> None:
        self.place = place
        self.store = store
        self.seeded = seeded
        self.others: list[Driver] = []

    @contextmanager
    def prepared(self) -> Iterator[dict[str, str]]:
        """Provides what the fault needs. Yields variables of the drivers."""
        yield {}

    def inject(self, driver: Driver) -> None:
        """Breaks something, after a step has started."""

    def repair(self) -> None:
        """Repairs it, when the driver has ended."""


class KilledDriver(Fault):
    """The driver is killed."""

    name = "driver killed"
    restarts = 1

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        driver.process.kill()


class KilledWorker(Fault):
    """The process of a step is killed."""

    name = "worker killed"

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        steps = set(driver.steps("step_started")) - set(driver.steps("step_finished"))
        for process in driver.children():
            with suppress(psutil.Error):
                if process.name().removeprefix("ray::") in steps or any(step in _command(process) for step in steps):
                    process.kill()
                    return


class KilledRaylet(Fault):
    """The raylet of the machine is killed, and with it its driver."""

    name = "raylet killed"
    restarts = 1

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        for process in driver.children():
            with suppress(psutil.Error):
                if process.name() == "raylet":
                    process.kill()


class EditedData(Fault):
    """A data file is edited, and restored a moment later."""

    name = "data edited"
    restarts = 1

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        before = self.place.data.read_bytes()
        self.place.data.write_bytes(before + b"a film that came later,fresh\n")
        time.sleep(self.seeded.uniform(0.2, 2.0))
        self.place.data.write_bytes(before)


class EditedCode(Fault):
    """The code of the steps is edited, and restored a moment later."""

    name = "code edited"
    restarts = 1

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        path = self.place.code / "stages" / "common" / "training" / "loop.py"
        before = path.read_text()
        path.write_text(f"{before}\nSOAK = 1\n")
        time.sleep(self.seeded.uniform(0.2, 2.0))
        path.write_text(before)


class JumpingClock(Fault):
    """The clocks of the drivers jump by an hour, forward and back, while a second driver waits."""

    name = "clock jumps by an hour"
    restarts = 1

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        self.others.append(Driver.start(self.place, self.store, {}))
        for offset in (3600.0, -3600.0, 0.0):
            time.sleep(self.seeded.uniform(1.0, 4.0))
            self.place.clock.write_text(str(offset))


class SecondDriver(Fault):
    """A second driver runs the same recipe in the same store."""

    name = "second driver"

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        self.others.append(Driver.start(self.place, self.store, {}))


class FullDisk(Fault):
    """The disk of the store is full."""

    name = "disk full"
    restarts = 1

    @contextmanager
    def prepared(self) -> Iterator[dict[str, str]]:
        """See `Fault`. Copies the store to a small disk."""
        disk = self.place.folder / "disk"
        disk.mkdir(exist_ok=True)
        size = sum(path.stat().st_size for path in Path(self.store).rglob("*") if path.is_file()) + 64 * MB
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
        try:
            shutil.copytree(self.store, disk / "store", symlinks=True)
            self.store = str(disk / "store")
            yield {}
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        with suppress(OSError), (Path(self.store).parent / "ballast").open("wb", buffering=0) as file:
            while file.write(b"x" * 65536):
                pass

    def repair(self) -> None:
        """See `Fault`."""
        (Path(self.store).parent / "ballast").unlink(missing_ok=True)


class FailingStore(Fault):
    """S3 answers with errors for a while, then slowly."""

    name = "S3 fails and is slow"
    restarts = 1

    @contextmanager
    def prepared(self) -> Iterator[dict[str, str]]:
        """See `Fault`. Copies the store to S3."""
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        self.proxy = Proxy(server.get_host_and_port()[1])
        variables = {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": "soak",
            "AWS_SECRET_ACCESS_KEY": "soak",
            "AWS_DEFAULT_REGION": "us-east-1",
            "CLOZELINE_CACHE": str(self.place.folder / "s3_cache"),
        }
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            bucket = boto3.resource("s3").Bucket(URL.split("/")[2])
            bucket.create()
            prefix = URL.split("/", 3)[3]
            for path in Path(self.store).rglob("*"):
                if path.is_file() and path.relative_to(self.store).parts[0] not in ("mlartifacts", "mlflow.db"):
                    bucket.upload_file(str(path), f"{prefix}/{path.relative_to(self.store)}")
            _link_assets(self.place.environment, variables["CLOZELINE_CACHE"])
            self.store = URL
            yield variables
        finally:
            self.proxy.close()
            server.stop()
            for name in variables:
                os.environ.pop(name)
            os.environ.update(before)

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        fails_until = time.monotonic() + self.seeded.uniform(3.0, 8.0)
        slow_until = fails_until + 5.0

        def fault(method: str, path: str) -> int | None:
            del method, path
            if time.monotonic() < fails_until:
                return 503 if self.seeded.random() < 0.7 else None
            if time.monotonic() < slow_until:
                time.sleep(self.seeded.uniform(0.0, 1.0))
            return None

        self.proxy.fail_before = fault

    def repair(self) -> None:
        """See `Fault`."""
        self.proxy.fail_before = None


class DeadTrackingServer(Fault):
    """The MLflow server is killed, and started again later."""

    name = "MLflow down"

    @contextmanager
    def prepared(self) -> Iterator[dict[str, str]]:
        """See `Fault`. Starts a server."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._start()
        end = time.monotonic() + 180
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                break
            time.sleep(0.5)
        try:
            yield {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}"}
        finally:
            self._kill()

    def inject(self, driver: Driver) -> None:
        """See `Fault`."""
        self._kill()
        time.sleep(self.seeded.uniform(2.0, 10.0))
        self._start()

    def _start(self) -> None:
        root = self.place.folder / "mlflow"
        root.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
        command += ["--artifacts-destination", str(root / "artifacts")]
        with (root / "server.log").open("a") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd=root)

    def _kill(self) -> None:
        processes = [*psutil.Process(self.server.pid).children(recursive=True), self.server]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        self.server.wait()


FAULTS: tuple[type[Fault], ...] = (
    KilledDriver,
    KilledWorker,
    SecondDriver,
    EditedData,
    KilledRaylet,
    FullDisk,
    EditedCode,
    JumpingClock,
    FailingStore,
    DeadTrackingServer,
)


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _link_assets(environment: dict[str, str], cache: str) -> None:
    """Makes the assets that were fetched already available in another cache."""
    own = Path(environment.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline")
    Path(cache).mkdir(exist_ok=True)
    for path in own.iterdir():
        if path.name != "stores" and not (Path(cache) / path.name).exists():
            (Path(cache) / path.name).symlink_to(path)
