"""Encodings and delimiters are recognized, and the source that results reads the same rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stages.common.data.recognition import recognized_source
from stages.common.data.rows import read_rows
from stages.common.errors import DataError

TEXTS = {
    "cp1252": ["Die Straße war schön – wirklich größer", "le café était très mauvais, déçu"],
    "latin-1": ["El niño comió mañana", "corazón, año"],
    "gb18030": ["这部电影非常好看，值得推荐", "服务太差了，再也不会来"],
    "big5": ["這部電影非常好看", "服務太差了"],
    "shift_jis": ["この映画はとても良かった", "最悪のサービスでした"],
    "euc_kr": ["이 영화는 정말 좋았습니다", "서비스가 최악이었다"],
    "cp1251": ["Этот фильм очень хороший", "Ужасное обслуживание"],
    "cp1250": ["Žluťoučký kůň úpěl ďábelské ódy", "Zażółć gęślą jaźń"],
    "utf-8": ["Größe, 映画 and 🎬", "plain"],
    "utf-8-sig": ["Größe, 映画 and 🎬", "plain"],
    "utf-16": ["Größe, 映画 and 🎬", "plain"],
    "utf-16-le": ["some words", "more words"],
    "utf-16-be": ["some words", "more words"],
}


def rows_of(path: Path) -> list[dict[str, str]]:
    return [dict(row) for _, row in read_rows(recognized_source(str(path)))]


@pytest.mark.parametrize("encoding", sorted(TEXTS))
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_are_recognized(encoding: str, packed: bool, tmp_path: Path) -> None:
    texts = TEXTS[encoding]
    content = ("text;label\n" + "".join(f"{text};x\n" for text in texts)).encode(encoding)
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows_of(path) == [{"text": text, "label": "x"} for text in texts]


def test_one_letter_with_an_accent_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" + "plain text,x\n" * 5000 + "the café,y\n").encode("latin-1"))
    assert recognized_source(str(path)).encoding == "cp1252"
    assert rows_of(path)[-1] == {"text": "the café", "label": "y"}


def test_bytes_of_no_encoding_raise_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n" + bytes(range(256)) * 3)
    with pytest.raises(DataError, match=r"the encoding of a\.csv is unknown"):
        recognized_source(str(path))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_recognized(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text{delimiter}label\n" + f'"one, two; three | four"{delimiter}x\n' * 9)
    assert recognized_source(str(path)).delimiter == (None if delimiter == "," else delimiter)
    assert rows_of(path) == [{"text": "one, two; three | four", "label": "x"}] * 9


def test_commas_in_texts_do_not_hide_another_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text, in English;label\n" + "one, two;x\n" * 3 + "three;y\n" * 3)
    assert recognized_source(str(path)).delimiter == ";"
    assert rows_of(path)[0] == {"text, in English": "one, two", "label": "x"}


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "sep=|", "sep=\t"])
def test_first_line_of_excel_declares_the_delimiter(first: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    delimiter = first.strip('"')[-1]
    path.write_text(f"{first}\r\ntext{delimiter}label\r\none, two{delimiter}x\r\nthree\r\n")
    source = recognized_source(str(path))
    assert source.delimiter is None, "the file says it"
    rows = read_rows(source)
    assert next(rows) == ("a.csv, line 3", {"text": "one, two", "label": "x"})
    with pytest.raises(DataError, match=r"a\.csv, line 4: 1 value, but"):
        next(rows)


def test_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\none; two\nthree\n")
    assert recognized_source(str(path)).delimiter is None
    assert rows_of(path) == [{"text": "one; two"}, {"text": "three"}]


def test_encoding_of_a_folder_is_that_of_all_files(tmp_path: Path) -> None:
    for number, text in enumerate(["服务太差了，再也不会来", "plain", "这部电影非常好看，值得推荐"]):
        (tmp_path / "good").mkdir(exist_ok=True)
        (tmp_path / "good" / f"{number}.txt").write_bytes(text.encode("gb18030"))
    (tmp_path / "good" / "3.txt").write_bytes("marked, 好".encode("utf-8-sig"))
    assert recognized_source(str(tmp_path)).encoding == "gb18030"
    assert [row["text"] for row in rows_of(tmp_path)][2:] == ["这部电影非常好看，值得推荐", "marked, 好"]


def test_a_utf_8_file_with_a_bad_line_is_utf_8(tmp_path: Path) -> None:
    """Another encoding would misread all other lines without a warning."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\n" + "Größe\n".encode() * 5 + "Größe\n".encode("latin-1"))
    source = recognized_source(str(path))
    assert source.encoding is None
    with pytest.raises(DataError, match="line 7: not UTF-8"):
        list(read_rows(source))
