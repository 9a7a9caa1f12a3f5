"""Rows of files: what a file or a source declares is used, and errors name line and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.errors import DataError, InputError


def rows(path: Path, **settings: Any) -> list[Any]:
    return [dict(row) for _, row in read_rows(Source(asset=str(path), **settings))]


def test_source_sets_encoding_and_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text;label\n服务, 太差了;差\n".encode("gb18030"))
    assert rows(path, encoding="gb18030", delimiter=";") == [{"text": "服务, 太差了", "label": "差"}]
    with pytest.raises(DataError, match=r"a\.csv, line 2: not UTF-8") as caught:
        rows(path, delimiter=";")
    assert "encoding: gb18030" in caught.value.remedy


def test_byte_order_mark_has_priority(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "Größe"}\n'.encode("utf-16"))
    assert rows(path) == rows(path, encoding="latin-1") == [{"text": "Größe"}]


def test_other_delimiter_without_a_setting_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\none;x\n")
    with pytest.raises(DataError, match="has one column, 'text;label'") as caught:
        rows(path)
    assert 'delimiter: ";"' in caught.value.remedy
    assert rows(path, delimiter=",") == [{"text;label": "one;x"}], "the user says so"


@pytest.mark.parametrize(("setting", "value"), [("encoding", "klingon"), ("encoding", "rot13"), ("delimiter", "::")])
def test_wrong_settings_raise_an_error(setting: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        Source(asset="a.csv", **{setting: value})


def test_delimiter_of_another_format_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\nx\n")
    with pytest.raises(DataError, match=r"delimiter is set, but a\.tsv is tsv"):
        rows(tmp_path / "a.tsv", delimiter=";")


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ('"a text, with a comma"', "Add the missing value"),
        ("one, two, three", "Quote values"),
        ('"one\ntwo\n', "Close the quotation mark: the row goes on for 2 lines"),
    ],
)
def test_wrong_number_of_values_has_the_remedy_that_fits(row: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\n{row}")
    with pytest.raises(DataError, match=r"a\.csv, line 2: [13] values?, but the header has 2 columns") as caught:
        rows(tmp_path / "a.csv")
    assert remedy in caught.value.remedy


def test_two_columns_of_one_name_raise_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,label\none,good,x\n")
    with pytest.raises(DataError, match=r"a\.csv has two columns with the name 'label'"):
        rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("text,label,,\none,good,,\n")
    assert rows(tmp_path / "a.csv") == [{"text": "one", "label": "good", "": ""}], "empty columns of a spreadsheet"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r'{"text": "a \ud800"}', r"line 2: \\ud800 is half of a surrogate pair"),
        (r'{"text": {"inner": ["\uDC00 a"]}}', r"line 2: \\udc00 is half"),
        ('{"text": ' + "[" * 100_000, "line 2: objects are nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "line 2: a number is too long"),
    ],
)
def test_json_that_no_text_can_have_raises_an_error(line: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83c\\udfac a pair is fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=problem):
        rows(tmp_path / "a.jsonl")


def test_json_may_be_an_array_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n [\n{"text": "one"},\n{"text": "two"}]')
    assert list(read_rows(Source(asset=str(path)))) == [
        ("a.json, item 1", {"text": "one"}), ("a.json, item 2", {"text": "two"})
    ]  # fmt: skip
    path.write_text('\n{"text": "one"}\n\n{"text": "two"}\n')
    assert list(read_rows(Source(asset=str(path)))) == [
        ("a.json, line 2", {"text": "one"}), ("a.json, line 4", {"text": "two"})
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"text": "one"},\n{"text": ]', r"a\.json, line 2: not JSON"),
        ('[{"text": "one"}, 7]', r"a\.json, item 2: not a JSON object"),
        (r'[{"text": "one"}, {"text": "\ud800"}]', r"a\.json, item 2: \\ud800 is half"),
    ],
)
def test_bad_arrays_raise_an_error(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=problem):
        rows(tmp_path / "a.json")


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_folder_has_a_file_per_text(tmp_path: Path) -> None:
    files = {
        "good/2.txt": "schön\r\nund gut\n".encode("latin-1"),
        "good/1.txt": b"one",
        "bad/films/1.txt": b"two",
        "0.txt": b"three",
        "good/notes.md": b"no text",
        "good/.hidden.txt": b"no text",
    }
    folder = write_folder(tmp_path / "films", files)
    assert list(read_rows(Source(asset=str(folder), encoding="latin-1"))) == [
        ("films/0.txt", {"text": "three", "label": None}),
        ("films/bad/films/1.txt", {"text": "two", "label": "bad/films"}),
        ("films/good/1.txt", {"text": "one", "label": "good"}),
        ("films/good/2.txt", {"text": "schön\nund gut", "label": "good"}),
    ]
    with pytest.raises(DataError, match=r"2\.txt, line 1: not UTF-8"):
        rows(folder)


def test_folder_without_texts_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no text files"):
        rows(write_folder(tmp_path / "films", {"notes.md": b"x"}))
