"""Tests of the cache: assets are downloaded once, verified, and downloaded again if they are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.assets.availability import check_available
from stages.common.assets.cache import content_digest, identity, is_cached, resolve
from stages.common.errors import AssetError

SIX = "pypi:six==1.17.0/six.py"
"""A wheel of 11 kB."""
SIX_SHA256 = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"


def test_identity_depends_on_pin_or_content_not_on_the_path(tmp_path: Path) -> None:
    assert identity(f"{SIX}#sha256=ab") == "sha256:ab/six.py"
    assert identity(SIX) == SIX
    for name, text in [("one", "same"), ("two", "same"), ("three", "other")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    one, two, three = (identity(str(tmp_path / name)) for name in ("one", "two", "three"))
    assert one == two != three
    (tmp_path / "two" / "config.json").rename(tmp_path / "two" / "renamed.json")
    assert identity(str(tmp_path / "two")) != one


def test_content_digest_changes_with_the_file(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "weights.bin"
    digests = set()
    for content in (b"aaaa", b"aaab", b"aaabb"):
        file.write_bytes(content)
        digests.add(content_digest(file))
        assert content_digest(file) in digests
    assert len(digests) == 3


def test_resolve_downloads_a_wheel_once(cache: Path, only_index: pytest.MonkeyPatch) -> None:
    assert not is_cached(SIX)
    check_available([SIX])
    path = resolve(f"{SIX}#sha256={SIX_SHA256}")
    assert path.is_relative_to(cache)
    assert '__version__ = "1.17.0"' in path.read_text()
    assert is_cached(SIX)
    only_index.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert resolve(SIX) == path, "what is cached needs no index"
    check_available([SIX])
    assert not list(cache.rglob(".fetch-*")), "no temporary files are left"


@pytest.fixture
def fetched(cache: Path) -> Path:
    return resolve(SIX)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
def test_resolve_downloads_a_damaged_file_again(damage: object, fetched: Path) -> None:
    good = fetched.read_bytes()
    damage(fetched)  # type: ignore[operator]
    assert not is_cached(SIX)
    assert resolve(SIX).read_bytes() == good
    assert is_cached(SIX)


@pytest.mark.parametrize("damage", [_truncate, Path.unlink])
def test_resolve_repeats_a_download_without_a_record(damage: object, fetched: Path) -> None:
    record = fetched.parent.with_name(fetched.parent.name + ".json")
    assert record.exists()
    record.write_text(record.read_text()[:50]) if damage is _truncate else record.unlink()
    assert not is_cached(SIX)
    _truncate(fetched)
    assert '__version__ = "1.17.0"' in resolve(SIX).read_text()


def test_resolve_rejects_a_wrong_sha256_of_a_cached_file(fetched: Path) -> None:
    with pytest.raises(AssetError) as caught:
        resolve(f"{SIX}#sha256={'0' * 64}")
    assert f"has sha256 {SIX_SHA256}, but the reference requires {'0' * 64}" in caught.value.problem
    assert "correct the pin" in caught.value.remedy


def test_resolve_rejects_a_path_missing_in_the_wheel(fetched: Path) -> None:
    with pytest.raises(AssetError, match=r"six==1\.17\.0 does not contain 'seven\.py'") as caught:
        resolve("pypi:six==1.17.0/seven.py")
    assert "find " in caught.value.remedy


def test_two_processes_download_an_asset_once(cache: Path) -> None:
    code = (
        "import os, sys; from stages.common.assets.cache import resolve; path = resolve(sys.argv[1]);"
        "print(path.stat().st_ino, path.stat().st_mtime_ns, len(path.read_bytes()))"
    )
    command = [sys.executable, "-c", code, SIX]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] != ""
    assert is_cached(SIX)


def test_resolve_downloads_a_url_once_and_again_if_damaged(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "one"}\n')
    url = (tmp_path / "x.jsonl").as_uri()
    path = resolve(url)
    assert path != tmp_path / "x.jsonl"
    assert path.read_text() == '{"text": "one"}\n'
    (tmp_path / "x.jsonl").write_text('{"text": "two"}\n')
    assert resolve(url).read_text() == '{"text": "one"}\n', "the cached file serves"
    _flip_first(path)
    assert resolve(url).read_text() == '{"text": "two"}\n'
    with pytest.raises(AssetError, match="the reference requires"):
        resolve(f"{url}#sha256={'0' * 64}")


def _flip_first(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])
