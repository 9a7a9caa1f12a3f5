"""Assets: fetched once, checked, fetched again when damaged, refused in time when out of reach."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.common.assets.availability import check_available
from stages.common.assets.cache import REACH_TIMEOUT_S, content_digest, identity, is_cached, resolve
from stages.common.assets.references import Asset
from stages.common.errors import AssetError

SIX = "pypi:six==1.17.0/six.py"
"""A wheel of 11 kB."""
SIX_SHA256 = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"

IN_TIME_S = 3.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh, empty cache."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def only_index(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """pip without settings of this machine; the test names the index."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return monkeypatch


def refusal(ref: str) -> AssetError:
    """How `check_reach` refuses a reference, in time."""
    start = time.monotonic()
    with pytest.raises(AssetError) as caught:
        check_available([ref])
    assert time.monotonic() - start < IN_TIME_S
    assert caught.value.remedy
    return caught.value


# --- references ---------------------------------------------------------------------------------------------------


def test_references_are_taken_apart() -> None:
    assert Asset.parse(f"{SIX}#sha256=ab") == Asset(f"{SIX}#sha256=ab", "pypi", "six", "1.17.0", "six.py", "ab")
    assert Asset.parse("hf:org/name@v1") == Asset("hf:org/name@v1", "hf", "org/name", "v1")
    assert Asset.parse("hf:org/name").scheme == "hf"
    assert Asset.parse("s3://bucket/x.jsonl#sha256=cd").sha256 == "cd"
    assert Asset.parse("some/path").scheme == "path"


@pytest.mark.parametrize(
    ("ref", "remedy"),
    [("pypi:six/six.py", "NAME==VERSION"), ("pypi:six==1.17.0", "NAME==VERSION"), ("hf:@main", "hf:ORG/NAME")],
)
def test_half_a_reference_is_refused(ref: str, remedy: str) -> None:
    with pytest.raises(AssetError) as caught:
        Asset.parse(ref)
    assert ref in caught.value.problem
    assert remedy in caught.value.remedy


def test_identity_follows_the_pin_or_the_content_and_never_the_path(tmp_path: Path) -> None:
    assert identity(f"{SIX}#sha256=ab") == "sha256:ab/six.py"
    assert identity(SIX) == SIX
    for name, text in [("one", "same"), ("two", "same"), ("three", "other")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    one, two, three = (identity(str(tmp_path / name)) for name in ("one", "two", "three"))
    assert one == two != three
    (tmp_path / "two" / "config.json").rename(tmp_path / "two" / "renamed.json")
    assert identity(str(tmp_path / "two")) != one


def test_a_digest_follows_every_change_of_a_file(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "weights.bin"
    digests = set()
    for content in (b"aaaa", b"aaab", b"aaabb"):
        file.write_bytes(content)
        digests.add(content_digest(file))
        assert content_digest(file) in digests
    assert len(digests) == 3


# --- the package index --------------------------------------------------------------------------------------------


def test_a_file_of_a_wheel_is_fetched_once(cache: Path, only_index: pytest.MonkeyPatch) -> None:
    assert not is_cached(SIX)
    check_available([SIX])
    path = resolve(f"{SIX}#sha256={SIX_SHA256}")
    assert path.is_relative_to(cache)
    assert '__version__ = "1.17.0"' in path.read_text()
    assert is_cached(SIX)
    only_index.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert resolve(SIX) == path, "what is cached needs no index"
    check_available([SIX])
    assert not list(cache.rglob(".fetch-*")), "nothing temporary is left"


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
def test_a_damaged_file_is_fetched_again(damage: object, fetched: Path) -> None:
    good = fetched.read_bytes()
    damage(fetched)  # type: ignore[operator]
    assert not is_cached(SIX)
    assert resolve(SIX).read_bytes() == good
    assert is_cached(SIX)


@pytest.mark.parametrize("damage", [_truncate, Path.unlink])
def test_a_fetch_that_was_cut_before_its_record_is_done_again(damage: object, fetched: Path) -> None:
    record = fetched.parent.with_name(fetched.parent.name + ".json")
    assert record.exists()
    record.write_text(record.read_text()[:50]) if damage is _truncate else record.unlink()
    assert not is_cached(SIX)
    _truncate(fetched)
    assert '__version__ = "1.17.0"' in resolve(SIX).read_text()


def test_a_wrong_sha256_is_refused_also_for_what_is_cached(fetched: Path) -> None:
    with pytest.raises(AssetError) as caught:
        resolve(f"{SIX}#sha256={'0' * 64}")
    assert f"has sha256 {SIX_SHA256}, but {'0' * 64} was asked for" in caught.value.problem
    assert "correct the pin" in caught.value.remedy


def test_a_path_that_the_wheel_lacks_is_refused(fetched: Path) -> None:
    with pytest.raises(AssetError, match=r"six==1\.17\.0 holds no 'seven\.py'") as caught:
        resolve("pypi:six==1.17.0/seven.py")
    assert "find " in caught.value.remedy


def test_an_unknown_package_is_refused_in_time(cache: Path) -> None:
    error = refusal("pypi:clozeline-no-such-package==1.0/model")
    assert "pypi:clozeline-no-such-package==1.0/model cannot be reached" in error.problem
    assert "hf:ORG/NAME" in error.remedy


def test_an_unknown_version_is_refused_in_time(cache: Path) -> None:
    error = refusal("pypi:six==99.9/six.py")
    assert "six==99.9" in error.problem
    assert "1.17.0" in error.problem + error.remedy, "the versions that there are"


def test_an_index_that_refuses_is_named_in_time(cache: Path, only_index: pytest.MonkeyPatch) -> None:
    only_index.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "cannot be reached" in refusal(SIX).problem


def test_an_index_that_never_answers_is_given_up_in_time(
    cache: Path, only_index: pytest.MonkeyPatch, silent_server: str
) -> None:
    only_index.setenv("PIP_INDEX_URL", f"{silent_server}/simple")
    assert "cannot be reached" in refusal(SIX).problem


def test_two_processes_fetch_the_same_asset_once(cache: Path) -> None:
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


# --- paths, URLs and the hub --------------------------------------------------------------------------------------


def test_a_missing_path_is_refused_in_time(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / "nowhere"))
    assert "nowhere' does not exist" in error.problem
    assert "Correct the path" in error.remedy


def test_a_url_is_fetched_once_checked_and_fetched_again_when_damaged(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "one"}\n')
    url = (tmp_path / "x.jsonl").as_uri()
    told: list[int] = []
    path = resolve(url, lambda done, total: told.append(done))
    assert path != tmp_path / "x.jsonl"
    assert path.read_text() == '{"text": "one"}\n'
    assert told == [16]
    (tmp_path / "x.jsonl").write_text('{"text": "two"}\n')
    assert resolve(url).read_text() == '{"text": "one"}\n', "the cached file serves"
    _flip_first(path)
    assert resolve(url).read_text() == '{"text": "two"}\n'
    with pytest.raises(AssetError, match="was asked for"):
        resolve(f"{url}#sha256={'0' * 64}")


def _flip_first(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jsonl", "nosuchscheme://host/x.jsonl"])
def test_a_url_out_of_reach_is_refused_in_time(url: str, cache: Path) -> None:
    error = refusal(url)
    assert f"{url} cannot be reached" in error.problem
    assert "or a path" in error.remedy


def test_a_url_that_never_answers_is_given_up_in_time(cache: Path, silent_server: str) -> None:
    assert "cannot be reached" in refusal(f"{silent_server}/x.jsonl").problem


HUB = """
import sys, time
from stages.common.assets.availability import check_available
from stages.common.errors import AssetError
import huggingface_hub
start = time.monotonic()
try:
    check_reach(["hf:org/name"])
except AssetError as error:
    print(f"{time.monotonic() - start:.2f}", error.problem, "|", error.remedy)
"""


@pytest.mark.parametrize("answers", [False, True])
def test_a_hub_out_of_reach_is_refused_in_time(answers: bool, cache: Path, silent_server: str) -> None:
    """The hub's client reads its settings when it is imported, hence the process of its own."""
    settings = {
        "HF_ENDPOINT": silent_server if answers else "http://127.0.0.1:9",
        "HF_HOME": str(cache / "hub"),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=os.environ | settings, capture_output=True, text=True, timeout=60, check=True
    )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < IN_TIME_S
    assert message.startswith("hf:org/name cannot be reached (")
    assert "pypi:NAME==VERSION/PATH" in message


def test_everything_is_asked_at_once(cache: Path, only_index: pytest.MonkeyPatch, silent_server: str) -> None:
    only_index.setenv("PIP_INDEX_URL", f"{silent_server}/simple")
    start = time.monotonic()
    with pytest.raises(AssetError):
        check_available([f"pypi:six==1.{number}.0/six.py" for number in range(4)])
    assert time.monotonic() - start < 2 * REACH_TIMEOUT_S + 1
