"""Secrets in URLs are replaced by stars."""

import os
from pathlib import Path

import pytest

from cluster.parallel.process_state import redirect_output
from cluster.redaction import redact, redact_file, redact_values

URL = "https://me:pa55w0rd@data.example/films.csv"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:pa55@host:5432/runs", "postgresql://me:***@host:5432/runs"),
        ("a redis://:pa55@host, b", "a redis://:***@host, b"),
        ("https://ghp_0123456789abcdef@host/x", "https://***@host/x"),
        ("https://x.blob/y?sv=1&sig=aB%2F3%3D&se=2", "https://x.blob/y?sv=1&sig=***&se=2"),
        ("s3://b/k?X-Amz-Credential=A/b&X-Amz-Date=1&X-Amz-Signature=0f", "s3://b/k?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***"),
        ("AccountName=a;AccountKey=aB3+/w==;EndpointSuffix=x", "AccountName=a;AccountKey=***;EndpointSuffix=x"),
        ("BlobEndpoint=https://a.x/;SharedAccessSignature=sv=1&sig=0f", "BlobEndpoint=https://a.x/;SharedAccessSignature=***"),
        ("'https://host/x?access_token=abc' failed", "'https://host/x?access_token=***' failed"),
    ],
)  # fmt: skip
def test_redact_replaces_only_secrets(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/store",
        "pypi:films==1.0/a.csv",
        "https://host:8443/a?page=2&keyword=x",
        "https://me@host/a",
        "abfs://container-of-results@account.dfs.core.windows.net/store",
        "abfss://container-of-results@account.dfs.core.windows.net/store",
        "mail me@host or see a?key=b: no address",
        "hf:org/name@main",
    ],
)
def test_redact_keeps_text_without_secrets(text: str) -> None:
    assert redact(text) == text


def test_redact_values_is_recursive() -> None:
    values = redact_values({"data": [{"path": URL}, 3, None], URL: True})
    assert values == {"data": [{"path": redact(URL)}, 3, None], redact(URL): True}


def test_redact_file_does_not_rewrite_a_file_without_secrets(tmp_path: Path) -> None:
    clean, dirty = tmp_path / "clean.log", tmp_path / "dirty.log"
    clean.write_bytes(b"s3://bucket/x \xff\n")
    dirty.write_bytes(f"read {URL} ".encode() + b"\xff\n")
    dirty.chmod(0o600)
    before = clean.stat().st_ino
    redact_file(clean)
    redact_file(dirty)
    assert clean.stat().st_ino == before
    assert dirty.stat().st_mode & 0o777 == 0o600
    assert dirty.read_bytes() == f"read {redact(URL)} ".encode() + b"\xff\n"


def test_output_goes_to_a_file_of_the_owner_only(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.touch(0o644)
    with redirect_output(log):
        os.write(1, b"printed\n")
    assert log.read_text().endswith("printed\n")
    assert log.stat().st_mode & 0o777 == 0o600
