"""An S3 server on this machine, and a proxy in front of it that can make requests fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.store import retries, sole_driver
from cluster.store.remote import RemoteStore
from tests.support.s3_helpers import BUCKET, Proxy, opened


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A moto server on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """An empty bucket, and a proxy in front of it that the environment names. Pauses between attempts are short."""
    import boto3

    proxy = Proxy(s3_port)
    for name, value in {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CLOZELINE_CACHE": str(tmp_path / "cache"),
        retries.VARIABLE: "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)
    monkeypatch.setattr(sole_driver, "SETTLE_S", 0.1)
    bucket = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{s3_port}").Bucket(BUCKET)
    bucket.create()
    yield proxy
    proxy.close()
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture
def other_machine(store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    """The store of a test, opened on another machine."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    return opened()
