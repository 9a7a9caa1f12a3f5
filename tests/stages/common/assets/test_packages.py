"""Tests of packages: files of source distributions are read without running anything in them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from stages.common.assets.availability import check_available
from stages.common.assets.cache import is_cached, resolve
from stages.common.errors import AssetError

REF = "pypi:clozeline-texts==1.0/clozeline_texts-1.0/texts/pos.txt"
TEXT = "a warm and clever film\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is all that pip searches, and an empty cache."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages"


def write_sdist(folder: Path, files: dict[str, str]) -> str:
    """Writes a source distribution and returns its digest."""
    file = folder / "clozeline_texts-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files(tmp_path: Path) -> dict[str, str]:
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='clozeline-texts')\n"
    return {"clozeline_texts-1.0/setup.py": setup, "clozeline_texts-1.0/texts/pos.txt": TEXT}


def test_resolve_reads_a_source_distribution_without_running_it(folder: Path, tmp_path: Path) -> None:
    ref = f"{REF}#sha256={write_sdist(folder, files(tmp_path))}"
    assert not is_cached(ref)
    check_available([ref])
    assert resolve(ref).read_text() == TEXT
    assert is_cached(ref)
    assert not (tmp_path / "ran").exists(), "setup.py did not run"


def test_resolve_rejects_a_source_distribution_with_a_wrong_sha256(folder: Path, tmp_path: Path) -> None:
    write_sdist(folder, files(tmp_path))
    with pytest.raises(AssetError, match="the reference requires 0000"):
        resolve(f"{REF}#sha256={'0' * 64}")


def test_resolve_rejects_a_source_distribution_that_writes_elsewhere(folder: Path, tmp_path: Path) -> None:
    write_sdist(folder, files(tmp_path) | {"clozeline_texts-1.0/../../../evil.txt": "?"})
    with pytest.raises(AssetError, match=r"cannot unpack clozeline-texts-1\.0\.tar\.gz"):
        resolve(REF)
    assert not list(tmp_path.rglob("evil.txt"))


def test_resolve_rejects_a_damaged_source_distribution(folder: Path, tmp_path: Path) -> None:
    write_sdist(folder, files(tmp_path))
    file = folder / "clozeline_texts-1.0.tar.gz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(AssetError, match="cannot unpack"):
        resolve(REF)


def test_check_available_names_the_other_kind_of_package(folder: Path, tmp_path: Path) -> None:
    write_sdist(folder, files(tmp_path))
    with pytest.raises(AssetError, match=r"no wheel of clozeline-texts==1\.0") as caught:
        check_available(["pypi:clozeline-texts==1.0/texts/pos.txt"])
    assert "clozeline-texts-1.0/" in caught.value.remedy
    with pytest.raises(AssetError, match=r"no source distribution of six==1\.17\.0") as caught:
        (folder / "clozeline_texts-1.0.tar.gz").rename(folder / "other.tar.gz")
        (folder / "six-1.17.0-py2.py3-none-any.whl").touch()
        check_available(["pypi:six==1.17.0/six-1.17.0/six.py"])
    assert "Remove six-1.17.0/" in caught.value.remedy
