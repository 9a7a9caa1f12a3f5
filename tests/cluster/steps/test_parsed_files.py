"""What a source file contains is parsed once per machine, and never taken from another content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.steps import code_digests
from cluster.steps.code_digests import CodeDigests
from cluster.steps.parsed_files import ParsedFile, ParsedFiles, parsed_files


def parse(digest: str) -> ParsedFile:
    return ParsedFile(digest, ("a.b",), reads_data=True)


def never() -> ParsedFile:
    pytest.fail("parsed again")


def test_known_content_is_not_parsed_again(tmp_path: Path) -> None:
    files = ParsedFiles(tmp_path / "code" / "known.json")
    assert files.get(b"x = 1", "a", lambda: parse("1")) == parse("1")
    files.save()
    again = ParsedFiles(tmp_path / "code" / "known.json")
    assert again.get(b"x = 1", "a", never) == parse("1")


def test_other_content_and_other_package_are_parsed(tmp_path: Path) -> None:
    files = ParsedFiles(tmp_path / "known.json")
    files.get(b"from . import c", "a", lambda: parse("1"))
    assert files.get(b"from . import d", "a", lambda: parse("2")) == parse("2")
    assert files.get(b"from . import c", "b", lambda: parse("3")) == parse("3"), (
        "relative imports depend on the package"
    )


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": [1]}', "\udcff"])
def test_damaged_file_is_ignored(text: str, tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    files = ParsedFiles(path)
    assert files.get(b"x = 1", "a", lambda: parse("1")) == parse("1")
    files.save()
    assert len(json.loads(path.read_text())) == 1


def test_folder_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = ParsedFiles(tmp_path / "file" / "known.json")
    assert files.get(b"x = 1", "a", lambda: parse("1")) == parse("1")
    files.save()


def test_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CLOZELINE_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    files = parsed_files.__wrapped__(Path(code_digests.__file__))
    assert files.get(b"x = 1", "a", lambda: parse("1")) == parse("1")
    files.save()


def test_plan_of_a_second_process_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path))
    expected: dict[str, str] = {}
    for is_second in (False, True):
        parsed_files.cache_clear()
        code_digests._read.cache_clear()
        if is_second:
            monkeypatch.setattr(code_digests, "_parse", lambda *_: never())
        found = CodeDigests().of("stages.distillation.stage")
        assert found == (expected or found) and len(found) > 20
        expected = found
    parsed_files.cache_clear()
