"""Files for `clozeline init`: columns, labels and errors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.init import labeled_file
from pipelines.init.labeled_file import LabeledFile
from pipelines.init.task_data import TaskFiles
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.errors import DataError
from tests.support.init_files import TOPICS, draw_splits, init, init_error, messages, tickets, write_csv, write_jsonl


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


SPECIAL_LABELS = (
    "no", "1.5", "a: b", "#hash", "it's", '"quoted"', "{braces}", "a, b", "- dash", "Null", "a\\b", "x=y", "*",
)  # fmt: skip


def test_special_characters_in_labels_are_kept(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the case of {label} {i}", label) for label in (*SPECIAL_LABELS, "") for i in range(12)]
    words = itertools.chain.from_iterable(
        ("--label-words", f"{label}={'abcdefghijklm'[number]}") for number, label in enumerate(SPECIAL_LABELS)
    )
    config = start(write_csv("special.csv", ("text", "label"), rows), *words)
    assert set(config.task.labels) == set(SPECIAL_LABELS)
    assert config.task.verbalizer == {label: ["abcdefghijklm"[number]] for number, label in enumerate(SPECIAL_LABELS)}
    assert {item.label for item in draw_splits(config).train} == set(SPECIAL_LABELS)


def test_json_lines_may_have_nested_columns_numbers_and_spaces(start: Callable[..., PipelineConfig]) -> None:
    names: list[Any] = [10, 9, " bug "]
    names += [None]
    rows = [{"about": {"kind": names[i % 4]}, "text": f"the crash of case {i}" if i else None} for i in range(40)]
    words = ("--label-words", "9=invoice", "--label-words", "10=parcel")
    config = start(write_jsonl("rows.jsonl", rows), "--label", "about.kind", *words)
    assert config.task.labels == ("10", "9", "bug")
    assert config.data.train is not None
    assert config.data.train.label_map == {" bug ": "bug"}
    assert config.data.train.drop_empty
    assert "1 rows have no text" in Path("made.yaml").read_text()
    assert {item.label for item in draw_splits(config).train} == {"10", "9", "bug"}


def test_numeric_labels_are_sorted_as_numbers(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the case of {i}", str(i % 5 + 1) if i < 100 else "") for i in range(120)]
    config = start(write_csv("films.csv", ("text", "stars"), rows))
    assert config.task.labels == ("1", "2", "3", "4", "5")


@pytest.mark.parametrize("nothing", ["", None])
def test_rows_without_a_label_become_the_unlabeled_set(
    start: Callable[..., PipelineConfig], nothing: str | None
) -> None:
    names = [*TOPICS, *[nothing] * 5]
    rows = [{"text": f"the parcel of case {i}", "label": names[i % 8]} for i in range(160)]
    if nothing is None:
        data = write_jsonl("some.jsonl", rows)
    else:
        data = write_csv("some.csv", ("text", "label"), [tuple(row.values()) for row in rows])
    config = start(data)
    splits = draw_splits(config)
    assert len(splits.unlabeled) == 100
    assert (len(splits.train), len(splits.test)) == (48, 12)
    assert {item.label for item in splits.test} <= set(TOPICS)


def test_null_is_no_label_and_the_text_none_is_one(start: Callable[..., PipelineConfig]) -> None:
    names = ["bug", "None", None]
    config = start(write_jsonl("some.jsonl", [{"text": f"the case {i}", "label": names[i % 3]} for i in range(180)]))
    splits = draw_splits(config)
    assert config.task.labels == ("None", "bug")
    assert (len(splits.train) + len(splits.test), len(splits.unlabeled)) == (120, 60)


@pytest.mark.parametrize(
    ("delimiter", "encoding", "first"),
    [
        (";", "gb18030", ""),
        ("\t", "latin-1", ""),
        ("|", "utf-16", ""),
        (";", "utf-8-sig", ""),
        (";", "utf-8", "sep=;\n"),
    ],
)
def test_run_reads_the_file_as_init_does(
    start: Callable[..., PipelineConfig], delimiter: str, encoding: str, first: str
) -> None:
    letters = {"gb18030": "服务太差了", "latin-1": "le café déçu"}.get(encoding, "映画 and Größe")
    rows = [f"{letters}, in case {i}{delimiter}{'ab'[i % 2]}\n" for i in range(40)]
    Path("some.csv").write_bytes((first + f"text{delimiter}label\n" + "".join(rows)).encode(encoding))
    splits = draw_splits(start("some.csv"))
    texts = {item.fields["text"]: item.label for item in (*splits.train, *splits.test)}
    assert texts == {f"{letters}, in case {i}": "ab"[i % 2] for i in range(40)}


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("text", "label"), "text", "label"),
        (("Label", "Review"), "Review", "Label"),
        (("title", "category", "sentence"), "sentence", "category"),
        (("words", "who"), "words", "who"),
    ],
)
def test_columns_are_inferred(header: tuple[str, ...], text: str, label: str) -> None:
    values = {text: lambda i: f"the parcel of case {i}", label: lambda i: ("bug", "billing")[i % 2]}
    rows = [[values.get(name, lambda i: f"some other words {i}")(i) for name in header] for i in range(20)]
    file = LabeledFile(write_csv("some.csv", header, rows))
    assert (file.guess_text(()), file.guess_label((text,))) == (text, label)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (("text_a", "text_b"), "text_a,text_b"),
        (("id", "sentence2", "Sentence1"), "Sentence1,sentence2"),
        (("hypothesis", "premise"), "premise,hypothesis"),
        (("question", "sentence"), "question,sentence"),
        (("question", "sentence", "text"), "text"),
        (("question", "title"), "question"),
    ],
)
def test_pairs_of_columns_are_recognized(header: tuple[str, ...], expected: str) -> None:
    rows = [[*(f"{name} of case {i}" if name != "id" else i for name in header), "ab"[i % 2]] for i in range(20)]
    file = LabeledFile(write_csv("some.csv", (*header, "label"), rows))
    assert file.guess_text(()) == expected
    assert file.guess_label(file.text_columns(expected)) == "label"


def test_text_columns_are_one_or_two() -> None:
    file = LabeledFile(write_csv("some.csv", ("one", "two", "a,b", "label"), [("x", "y", "z", "c")] * 4))
    assert file.text_columns("one") == ("one",)
    assert file.text_columns("one, two") == ("one", "two")
    assert file.text_columns("a,b") == ("a,b",), "the name of a column"
    for names in ("one,two,label", "one,one"):
        with pytest.raises(DataError, match="is not one column or a pair"):
            file.text_columns(names)
    with pytest.raises(DataError, match="has no column 'three'"):
        file.text_columns("one,three")


@pytest.mark.parametrize("as_json", [True, False])
def test_labels_may_be_numbers(as_json: bool) -> None:
    rows = [{"text": f"the case {i}", "label": i % 2} for i in range(10)]
    data = (
        write_jsonl("some.jsonl", rows)
        if as_json
        else write_csv("some.csv", ("text", "label"), [[*r.values()] for r in rows])
    )
    summary = LabeledFile(data).summarize({"text": "text"}, "label")
    assert (summary.labels, summary.counts, summary.label_map) == (("0", "1"), {"0": 5, "1": 5}, {})


@pytest.mark.parametrize("num_labels", [77, 500])
def test_many_labels_with_one_text_each_are_labels(num_labels: int) -> None:
    rows = [(f"the case {i}", f"intent {i}") for i in range(num_labels)]
    file = LabeledFile(write_csv("some.csv", ("text", "label"), rows))
    assert file.guess_label(("text",)) == "label"
    assert len(file.labels("label")) == num_labels


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone.csv", None, ["'gone.csv' does not exist"]),
        ("empty.csv", "", ["empty.csv is empty"]),
        ("empty.jsonl", "", ["empty.jsonl has no rows"]),
        ("header.csv", "text,label\n", ["header.csv has no rows"]),
        ("bad.csv", "text,label\na b c,x\na b c,x,y\n", ["bad.csv, line 3", "3 values"]),
        ("few.csv", "text,label\na b c,x\na b c\n", ["few.csv, line 3", "1 value,", "Add the missing value"]),
        ("two.csv", "text,label,label\na b c,x,y\n", ["two.csv has two columns with the name 'label'"]),
        ("half.jsonl", '{"text": "a b \\ud800", "label": "x"}\n', ["half.jsonl, line 1", "half of a surrogate pair"]),
        ("bad.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', ["bad.jsonl, line 2", "not JSON"]),
        ("list.jsonl", "[1]\n", ["list.jsonl, line 1", "not a JSON object"]),
        ("kind.xyz", "text,label\n", ["kind.xyz", "Rename it"]),
        (
            "many.jsonl",
            '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": "y"}\n',
            ["many.jsonl, line 2", "is not a list of labels"],
        ),
        ("odd.jsonl", '{"text": "a b c", "label": "x"}\n{"text": 7, "label": "y"}\n', ["odd.jsonl, line 2", "is int"]),
        (
            "less.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b"}\n',
            ["less.jsonl, line 2", "column 'label' is missing"],
        ),
        (
            "less.jsonl",
            '{"text": "a", "label": "x"}\n{"label": "y"}\n',
            ["less.jsonl, line 2", "column 'text' is missing"],
        ),
        ("one.csv", "text,label\na b c,x\na b d,x\n", ["only the label 'x'", "--label"]),
        ("none.csv", "text,label\na b c,\na b d,\n", ["has no label"]),
    ],
)
def test_bad_files_are_errors(name: str, content: str | None, expected: list[str]) -> None:
    if content is not None:
        Path(name).write_text(content)
    columns = ("--text", "text") if name == "odd.jsonl" else ()
    error = init_error(name, *columns)
    assert all(words in error for words in expected), error


def test_labels_that_look_like_text_are_errors() -> None:
    rows = [(f"the case {i}", f"value {i}") for i in range(501)]
    error = init_error(write_csv("some.csv", ("text", "label"), rows))
    assert "501 different values in 501 rows" in error and "looks like text, not labels" in error
    assert "The maximum is 500 labels" in error
    rows = [(f"the case {i}", "a very long label " * 5 + str(i % 2)) for i in range(60)]
    assert "looks like text" in init_error(write_csv("some.csv", ("text", "label"), rows))


def test_columns_that_cannot_be_inferred_are_errors() -> None:
    rows = [(f"words of one {i}", f"words of two {i}", "ab"[i % 2], "cd"[i % 2]) for i in range(20)]
    data = write_csv("some.csv", ("one", "two", "three", "four"), rows)
    error = init_error(data)
    assert "one, two, three, four" in error and "--text COLUMN" in error
    assert "--label COLUMN" in init_error(data, "--text", "one")
    assert "has no column 'five'" in init_error(data, "--text", "five")
    assert "is already the column of the text" in init_error(data, "--text", "one", "--label", "one")


def test_large_files_report_their_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeled_file, "ROWS_PER_REPORT", 10)
    lines: list[str] = []
    LabeledFile(write_csv("some.csv", ("text", "label"), [(f"case {i}", "ab"[i % 2]) for i in range(25)]), lines.append)
    assert lines == ["some.csv: 10 rows", "some.csv: 20 rows"]


def test_many_unlabeled_rows_are_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.init.task_data.MAX_UNLABELED_ROWS", 100)
    train, more = tickets(), messages("more.csv", 5000, labeled=False)
    files = TaskFiles.read(train, [more])
    assert (len(files.unlabeled[0].rows), files.unlabeled[0].num_rows) == (100, 5000)
    data = files.summarize({"text": "message"}, "team").unlabeled[0]
    assert (data.is_sample, data.num_rows, data.num_texts, len(data.texts)) == (True, 5000, 5000, 100)
    done = init(train, "--unlabeled", more, "--backbone", "none", "--output", "made.yaml")
    assert done.exit_code == 0, done.exception
    assert re.search(r"sampled rows +100 *$", done.output, re.M)
    assert re.search(r"rows +120 +5,000 *$", done.output, re.M)
    source = read_recipe(Path("made.yaml"), PipelineConfig).data.unlabeled
    assert isinstance(source, tuple) and source[1].drop_empty, "a row that is not in the sample may have no text"
