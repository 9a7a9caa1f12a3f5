"""Tests of sources: all formats give the same examples, and errors name the line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest

from stages.common.config import MULTI_LABEL
from stages.common.data.config import Source
from stages.common.data.sources import iter_examples
from stages.common.errors import AssetError, DataError
from stages.common.examples import Example
from tests.support.small_models import write_lines

ROWS = [
    ("A warm film, and “clever” too.", "fresh"),
    ('He said "dull", twice', "rotten"),
    ("Größe, 映画 and 🎬", "fresh"),
]
EXPECTED = [Example(str(number), {"text": text}, label) for number, (text, label) in enumerate(ROWS)]


def _csv(delimiter: str) -> str:
    quoted = (f'"{text.replace(chr(34), chr(34) * 2)}"{delimiter}{label}\n' for text, label in ROWS)
    return f"text{delimiter}category\n" + "".join(quoted)


TEXTS = {
    "csv": _csv(","),
    "tsv": "text\tcategory\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "tab": _csv("\t").replace("\n", "\nstring\tdiscrete\nmeta\tclass\n", 1),
    "json": json.dumps([{"text": text, "category": label} for text, label in ROWS], indent=1),
    "jsonl": "".join(json.dumps({"text": text, "category": label}) + "\n\n" for text, label in ROWS),
}


def read(path: Path, labels: tuple[str, ...] | None = ("rotten", "fresh"), **settings: Any) -> list[Example]:
    return list(iter_examples(Source(asset=str(path), **({"label": "category"} | settings)), labels))


@pytest.mark.parametrize("kind", sorted(TEXTS))
@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".zst"])
def test_all_formats_give_the_same_examples(kind: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"reviews.{kind}{packed}"
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
    }[packed]
    path.write_bytes(pack(TEXTS[kind].encode()))
    assert read(path) == EXPECTED


def test_tsv_reads_a_quotation_mark_as_text(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text('text\tcategory\n"Dull\trotten\nfine\tfresh\n')
    assert [item.fields["text"] for item in read(tmp_path / "d.tsv")] == ['"Dull', "fine"]


def test_parquet_gives_the_same_examples(tmp_path: Path) -> None:
    path = tmp_path / "reviews.parquet"
    pandas.DataFrame(ROWS, columns=["text", "category"]).to_parquet(path)
    assert read(path) == EXPECTED


def test_parquet_reads_a_missing_value_as_empty_text(tmp_path: Path) -> None:
    path = tmp_path / "reviews.parquet"
    pandas.DataFrame({"text": ["fine", None], "category": ["fresh", "rotten"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"reviews\.parquet, row 2: the field 'text' is empty"):
        read(path)


def test_txt_has_one_text_per_line(tmp_path: Path) -> None:
    path = tmp_path / "unlabeled.txt"
    path.write_bytes(b"one text\r\n  and another, \nthe last")
    actual = read(path, None, label=None)
    assert [item.fields["text"] for item in actual] == ["one text", "  and another, ", "the last"]
    assert all(item.label is None for item in actual)


def test_csv_reads_line_breaks_and_delimiters_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,category\n"one,\ntwo",fresh\nthree,stale\n')
    source = Source(asset=str(path), label="category")
    with pytest.raises(DataError, match=r"^a\.csv, line 4: the label 'stale'"):
        list(iter_examples(source, ["fresh"]))
    assert next(iter_examples(source, ["fresh", "stale"])).fields["text"] == "one,\ntwo"


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Spreadsheets write a byte order mark."""
    for kind in ("csv", "jsonl"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(b"\xef\xbb\xbf" + TEXTS[kind].encode())
        assert read(path) == EXPECTED


def test_format_can_be_set_for_any_file_name(tmp_path: Path) -> None:
    path = tmp_path / "reviews.data"
    path.write_text(TEXTS["csv"])
    assert read(path, format="csv") == EXPECTED
    with pytest.raises(DataError, match=r"cannot infer the format of reviews\.data") as caught:
        read(path)
    assert "Set format" in caught.value.remedy


def test_columns_are_renamed_and_labels_mapped(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"s1": "a", "s2": "b", "y": 0}\n{"s1": "c", "s2": "d", "y": 1}\n{"s1": "e", "s2": "f", "y": 2}\n')
    source = Source(
        asset=str(path),
        fields={"first": "s1", "second": "s2"},
        label="y",
        label_map={"0": "no", "1": "yes"},
        filter={"y": ["0", "1"]},
    )
    actual = list(iter_examples(source, ["yes", "no"], prefix="test-"))
    assert actual == [
        Example("test-0", {"first": "a", "second": "b"}, "no"),
        Example("test-1", {"first": "c", "second": "d"}, "yes"),
    ]


@pytest.mark.parametrize(("values", "names"), [([True, False], ["True", "False"]), ([1, 0], ["1", "0"])])
def test_labels_can_be_booleans_or_numbers(values: list[Any], names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x", "y": value}) + "\n" for value in values))
    assert [item.label for item in read(path, tuple(names), label="y")] == names
    translated = read(path, ("no", "yes"), label="y", label_map=dict(zip(names, ["yes", "no"], strict=True)))
    assert [item.label for item in translated] == ["yes", "no"]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1") as caught:
        read(path, ("no", "yes"), label="y")
    assert f"label_map: {{'{names[0]}': ...}}" in caught.value.remedy, "in quotes, as YAML needs it"


QUESTIONS = [
    {"answer": "a red one", "idx": {"paragraph": 0, "question": 7}, "id": 3, "label": 1},
    {"answer": "a blue one", "idx": {"paragraph": 0, "question": 7}, "id": 3, "label": 0},
    {"answer": "at noon", "idx": {"paragraph": 0, "question": 8}, "id": 4, "label": 1},
]


@pytest.mark.parametrize(("column", "keys"), [("id", ["3", "3", "4"]), ("idx.question", ["7", "7", "8"])])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_keys_are_read_from_columns(column: str, keys: list[str], kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"questions.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    else:
        pandas.DataFrame(QUESTIONS).to_parquet(path)
    columns = {"id": column, "group": column, "question": column}
    actual = read(path, ("0", "1"), fields={"text": "answer"}, label="label", **columns)
    assert [item.uid for item in actual] == keys
    assert [item.group for item in actual] == [item.question for item in actual] == keys
    without = read(path, None, fields={"text": "answer"}, label=None)
    assert [(item.uid, item.group, item.question) for item in without] == [(uid, None, None) for uid in "012"]


def test_an_empty_group_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,author,category\nx,Ann,fresh\ny,,fresh\n")
    assert [item.group for item in read(path, group="author")] == ["Ann", None]
    with pytest.raises(DataError, match=r"a\.csv, line 3: the id 'author' is empty"):
        read(path, id="author")


def test_dotted_columns_lead_into_nested_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"passage": {"text": "fine", "about": {"kind": "x"}}, "passage.text": "whole", "label": "fresh"}
    path.write_text(json.dumps(row) + "\n")
    fields = {"text": "passage.text", "kind": "passage.about.kind"}
    (actual,) = read(path, fields=fields, label="label", filter={"passage.about.kind": ["x"]})
    assert actual.fields == {"text": "whole", "kind": "x"}, "a column with the exact name has priority"
    with pytest.raises(
        DataError, match=r"line 1: there is no column 'passage\.about\.kin'.*passage, passage\.text, label"
    ):
        read(path, fields={"text": "passage.about.kin"}, label="label")
    with pytest.raises(DataError, match=r"there is no column 'label\.x'"):
        read(path, fields={"text": "label.x"}, label="label")


def test_limit_counts_rows_after_the_filter(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(TEXTS["jsonl"])
    assert [item.label for item in read(path, filter={"category": ["fresh"]}, limit=1)] == ["fresh"]
    assert len(read(path, limit=2)) == 2


def test_labels_none_ignores_the_label_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(TEXTS["jsonl"])
    assert [item.label for item in read(path, None)] == [None] * 3


BROKEN = {
    "a.jsonl": ('{"text": "x", "category": "fresh"}\n\n{"text": "y", \n', "a.jsonl, line 3: not JSON"),
    "b.jsonl": ('{"text": "x", "category": "fresh"}\n["y"]\n', "b.jsonl, line 2: not a JSON object"),
    "c.csv": ("text,category\nx,fresh\ny, z,fresh\n", "c.csv, line 3: 3 values, but the header has 2 columns"),
    "d.tsv": ("text\tcategory\nx\tfresh\nlost\n", "d.tsv, line 3: 1 value, but the header has 2 columns"),
    "e.csv": ("", "e.csv is empty"),
    "f.tab": ("text\tcategory\nstring\td\nmeta\tclass\nx\tfresh\ny\tz\tfresh\n", "f.tab, line 5: 3 values"),
    "g.csv": ('text,category\nx,fresh\n"never closed,fresh\nz,rotten\n', "g.csv, line 3: 1 value"),
    "h.jsonl": ("", "h.jsonl has no examples"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
@pytest.mark.parametrize("packed", [False, True])
def test_malformed_file_raises_an_error_with_the_line(name: str, packed: bool, tmp_path: Path) -> None:
    text, problem = BROKEN[name]
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(DataError) as caught:
        read(path)
    assert problem in caught.value.problem.replace(".gz", "")
    assert caught.value.remedy


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_non_utf8_file_raises_an_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    line = {"jsonl": '{"text": "Größe"}\n', "csv": "text\nGröße\n", "txt": "Größe\n"}[kind]
    path.write_bytes(line.encode() * 3000 + line.encode("latin-1"))
    expected = 6002 if kind == "csv" else 3001
    with pytest.raises(DataError, match=rf"a\.{kind}, line {expected}: not UTF-8") as caught:
        read(path, None, label=None)
    assert "UTF-8" in caught.value.remedy


@pytest.mark.parametrize(("name", "content"), [("a.csv.gz", b"text,category\n"), ("a.parquet", b"PAR1 no more")])
def test_file_with_a_wrong_ending_raises_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} as"):
        read(tmp_path / name)


def test_truncated_archive_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(("text,category\n" + "x,fresh\n" * 5000).encode())[:-20])
    with pytest.raises(DataError, match=r"cannot read a\.csv\.gz"):
        read(path)


def test_missing_file_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"nowhere\.csv' does not exist") as caught:
        read(tmp_path / "nowhere.csv")
    assert "Correct the path" in caught.value.remedy


@pytest.mark.parametrize(
    ("column", "problem", "remedy"),
    [
        ("idx", r"a\.jsonl, line 1: the question 'idx' is dict", "question: idx.paragraph"),
        ("list", r"a\.jsonl, line 1: the question 'list' is list", "another column"),
        ("none", r"a\.jsonl, line 1: the question 'none' is empty", "Fill it in"),
        ("idx.word", r"a\.jsonl, line 1: there is no column 'idx\.word'", "Use one of: text, idx, list, none"),
    ],
)
def test_question_must_be_text_or_number(column: str, problem: str, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "idx": {"paragraph": 0, "question": 7}, "list": [1], "none": null}\n')
    with pytest.raises(DataError, match=problem) as caught:
        read(path, None, label=None, question=column)
    assert remedy in caught.value.remedy


def test_subset_of_a_file_raises_an_error() -> None:
    with pytest.raises(ValueError, match=r"a\.csv is a file.*hf:ORG/NAME"):
        Source(asset="a.csv", subset="mnli")
    assert Source(asset="hf:nyu-mll/glue", subset="mnli").subset == "mnli"


def test_label_map_requires_a_label_column() -> None:
    with pytest.raises(ValueError, match="label: category"):
        Source(asset="a.csv", label_map={"1": "fresh"})


def read_sets(path: Path, **settings: Any) -> list[Any]:
    """Returns the labels of the examples of a file whose rows have any number of them."""
    source = Source(asset=str(path), **({"label": "topics"} | settings))
    return [item.label for item in iter_examples(source, ["money", "sports"], problem_type=MULTI_LABEL)]


def test_lists_of_labels_are_sets_in_the_order_of_the_task(tmp_path: Path) -> None:
    rows = [{"text": "a", "topics": ["sports", "money", "sports"]}, {"text": "b", "topics": []}]
    path = write_lines(tmp_path / "a.jsonl", [*rows, {"text": "c", "topics": ["Sport"]}])
    assert read_sets(path, label_map={"Sport": "sports"}) == [("money", "sports"), (), ("sports",)]


def test_a_separator_divides_the_labels_of_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,topics\na,sports; money\nb,\nc,money;\n")
    assert read_sets(path, label_separator=";") == [("money", "sports"), (), ("money",)]


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"text": "a", "topics": None}, ["line 1", "'topics' has no labels", "[]"]),
        ({"text": "a", "topics": "money"}, ["line 1", "not a list of labels"]),
        ({"text": "a", "topics": ["news"]}, ["line 1", "'news' is not in labels"]),
        ({"text": "a"}, ["line 1", "no column 'topics'"]),
    ],
)
def test_wrong_label_sets_are_errors(row: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError) as caught:
        read_sets(path)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_separator_needs_a_column() -> None:
    with pytest.raises(ValueError, match="label_separator is set, but label"):
        Source(asset="a.csv", label_separator=";")
