"""`predict` labels files of several formats: one answer per row, in order, with all columns of the input."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from click.testing import Result
from pyarrow import parquet
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.cli.predict import MAX_REJECTED
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier

GOOD, BAD = "a warm film", "a dull film"
Predict = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier that finds warm films good and dull films bad."""
    examples = [Example(f"{n}", {"text": (GOOD, BAD)[n % 2]}, ("good", "bad")[n % 2]) for n in range(8)]
    folder = tmp_path_factory.mktemp("model")
    TfidfClassifier(("bad", "good"), ("text",), "word").fit(examples).save(folder)
    return folder


@pytest.fixture
def predict(model: Path) -> Predict:
    """Runs the command on a file, or on the text of standard input."""

    def call(source: Path | str | bytes, *options: str) -> Result:
        name = str(source) if isinstance(source, Path) else "-"
        stdin = None if isinstance(source, Path) else source
        return CliRunner().invoke(app, ["predict", str(model), "--input", name, *options], input=stdin)

    return call


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def labels(result: Result) -> list[Any]:
    return [item["label"] for item in objects(result)]


def table(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_byte_order_mark_changes_nothing(predict: Predict, tmp_path: Path) -> None:
    lines = '{"text":"Dull."}\n{"text":"Dull."}\n'
    marked = predict(written(tmp_path / "bom.jsonl", "\ufeff" + lines))
    assert marked.exit_code == 0
    assert objects(marked)[0] == objects(marked)[1]
    assert marked.stdout == predict(written(tmp_path / "plain.jsonl", lines)).stdout
    assert labels(predict("\ufeff" + lines)) == ["bad", "bad"], "on standard input"


def test_a_bad_line_is_reported_and_the_others_are_answered(predict: Predict, tmp_path: Path) -> None:
    rows = [f'{{"text":"good {number}"}}' for number in range(1, 601)]
    source = written(tmp_path / "mid.jsonl", "\n".join([*rows, '{"text":""}', '{"text":"z"}']) + "\n")
    result = predict(source)
    assert result.exit_code == 1
    assert len(objects(result)) == 602
    assert [number for number, item in enumerate(objects(result), 1) if "error" in item] == [601]
    assert objects(result)[600] == {
        "text": "", "label": None, "error": 'the field \'text\' is empty. Write {"text": "some text"}.'
    }  # fmt: skip
    assert f"rejected  {source}:601: the field 'text' is empty." in result.stderr
    assert "rejected  1 of 602 rows" in result.stderr


def test_strict_stops_at_the_first_bad_line(predict: Predict, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", f'{{"text": "{GOOD}"}}\n{{"txt": "misspelled"}}\n{{"text": "{BAD}"}}\n')
    result = predict(source, "--strict", "--output", str(tmp_path / "out.jsonl"))
    assert isinstance(result.exception, InputError)
    assert f"{source}:2: the field 'text' is missing." in str(result.exception)
    assert list(tmp_path.iterdir()) == [source], "no output is written"


def test_a_blank_line_has_an_answer(predict: Predict, tmp_path: Path) -> None:
    result = predict(written(tmp_path / "t2.txt", f"{GOOD}\n\n{BAD}\n"))
    assert result.exit_code == 1
    assert labels(result) == ["good", None, "bad"]
    assert objects(result)[1]["error"].startswith("the line is blank.")
    assert "t2.txt:2: the line is blank." in result.stderr


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "the line is blank"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "too many levels"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"text": 3}', "not text"),
        (b'{"text": null}', "is empty"),
        (b'{"body": "x"}', "is missing"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_each_bad_json_line_is_one_answer(line: bytes, problem: str, predict: Predict, tmp_path: Path) -> None:
    good = json.dumps({"text": GOOD}).encode()
    result = predict(written(tmp_path / "in.jsonl", b"\n".join([good, line, good]) + b"\n"))
    assert result.exit_code == 1, result.stderr
    assert labels(result) == ["good", None, "good"]
    assert problem in objects(result)[1]["error"]
    assert "in.jsonl:2: " in result.stderr


def test_a_column_with_half_a_surrogate_pair_is_kept(predict: Predict) -> None:
    line = '{"text": "a warm film", "id": "\\ud800"}\n'
    assert objects(predict(line))[0]["id"] == "\ud800"


def test_a_file_without_a_good_row_is_bad_input(predict: Predict, tmp_path: Path) -> None:
    result = predict(written(tmp_path / "in.jsonl", '{"a": 1}\n{"a": 2}\n'), "--output", str(tmp_path / "out.jsonl"))
    assert isinstance(result.exception, InputError)
    assert "in.jsonl:1: no row can be labeled: the field 'text' is missing." in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()
    assert predict("").exit_code == 0, "an empty file has no bad row"


def test_only_some_rejected_rows_are_printed(predict: Predict) -> None:
    result = predict(f"{GOOD}\n" + "\n" * 100)
    assert len(objects(result)) == 101
    assert len(result.stderr.splitlines()) == MAX_REJECTED + 2
    assert "rejected  100 of 101 rows" in result.stderr


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_table_keeps_its_columns_and_delimiter(delimiter: str, predict: Predict, tmp_path: Path) -> None:
    rows = [["id", "text", "label"], ["7", GOOD, "gold"], ["8", f'{BAD}{delimiter} "said"\nhe', ""]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    result = predict(written(tmp_path / "in.csv", "\ufeff" + text.getvalue()))
    assert result.exit_code == 0, result.stderr
    first, second = table(result.stdout, delimiter)
    assert list(first) == ["id", "text", "input_label", "label", "probabilities.bad", "probabilities.good", "error"]
    assert (first["id"], first["input_label"], first["label"], first["error"]) == ("7", "gold", "good", "")
    assert (second["text"], second["label"]) == (rows[2][1], "bad")
    assert float(second["probabilities.bad"]) + float(second["probabilities.good"]) == pytest.approx(1)


def test_the_line_in_which_excel_names_the_delimiter_is_no_header(predict: Predict, tmp_path: Path) -> None:
    result = predict(written(tmp_path / "in.csv", f"sep=;\r\ntext;n\r\n{GOOD};1\r\n;2\r\n"))
    assert [row["label"] for row in table(result.stdout, ";")] == ["good", ""]
    assert "in.csv:4: the field 'text' is empty" in result.stderr


def test_each_bad_row_of_a_table_is_one_answer(predict: Predict, tmp_path: Path) -> None:
    rows = f'n,text\n1,{GOOD}\n2\n\n4,{GOOD},more\n5,"{GOOD}"x\n6,"{GOOD}\nagain"\n8,{GOOD}\n'
    result = predict(written(tmp_path / "in.csv", rows))
    assert [row["label"] for row in table(result.stdout)] == ["good", "", "", "", "", "good", "good"]
    assert [row["n"] for row in table(result.stdout)] == ["1", "2", "", "4", "", "6", "8"]
    for part in ("in.csv:3: 1 of 2 values are", "in.csv:4: the row is", "in.csv:5: 3 values", "in.csv:6: "):
        assert part in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "text,n,text\nx,1,y\n", "two columns 'text'"),
        ("a.csv", "", "is empty"),
        ("a.csv", "body,n\nx,1\n", "there is no column 'text' for the field 'text'"),
        ("a.parquet", "PAR", "not a parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_bad_input(
    name: str, content: str, problem: str, predict: Predict, tmp_path: Path
) -> None:
    result = predict(written(tmp_path / name, content))
    assert isinstance(result.exception, InputError)
    assert problem in str(result.exception)


def test_a_tsv_file_has_ordinary_quotation_marks(predict: Predict, tmp_path: Path) -> None:
    result = predict(written(tmp_path / "in.tsv", f'text\tn\n"{GOOD}\t1\n'))
    assert table(result.stdout.replace('"', "''"), "\t")[0]["label"] == "good"
    assert result.stdout.splitlines()[1].startswith(f'"{GOOD}\t1\tgood')


def test_a_parquet_file_keeps_the_types_of_its_columns(predict: Predict, tmp_path: Path) -> None:
    given = pyarrow.table({"text": [GOOD, None, BAD], "n": pyarrow.array([1, 2, None], pyarrow.int8())})
    parquet.write_table(given, tmp_path / "in.parquet")
    result = predict(tmp_path / "in.parquet", "--output", str(tmp_path / "out.parquet"))
    assert result.exit_code == 1
    assert "in.parquet:2: the field 'text' is empty" in result.stderr
    output = parquet.read_table(tmp_path / "out.parquet")
    assert output.select(["text", "n"]).equals(given)
    assert output["label"].to_pylist() == ["good", None, "bad"]
    assert labels(predict(tmp_path / "in.parquet")) == ["good", None, "bad"], "JSON lines on standard output"


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_the_ending_of_the_output_selects_its_format(ending: str, predict: Predict, tmp_path: Path) -> None:
    source = written(
        tmp_path / "in.jsonl", f'{{"text": "{GOOD}", "id": {{"a": [1]}}}}\n{{"text": "{BAD}", "id": null}}\n'
    )
    path = tmp_path / f"out.{ending}"
    assert predict(source, "--output", str(path)).exit_code == 0
    if ending == "parquet":
        rows = parquet.read_table(path).to_pylist()
        assert rows[0]["id"] == {"a": [1]}
    elif ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[0]["id"] == {"a": [1]}
    else:
        text = gzip.decompress(path.read_bytes()).decode() if ending == "csv.gz" else path.read_text()
        rows = table(text, "\t" if ending == "tsv" else ",")
        assert json.loads(rows[0]["id"]) == {"a": [1]}
    assert [row["label"] for row in rows] == ["good", "bad"]


def test_plain_labels_have_one_line_each(predict: Predict, tmp_path: Path) -> None:
    source = written(tmp_path / "in.txt", f"{GOOD}\n\n{BAD}")
    assert predict(source, "--output", str(tmp_path / "out.txt")).exit_code == 1
    assert (tmp_path / "out.txt").read_text() == "good\n\nbad\n"


def test_a_table_has_no_place_for_a_late_column(predict: Predict, tmp_path: Path) -> None:
    lines = [json.dumps({"text": GOOD})] * 600 + [json.dumps({"text": GOOD, "late": 1})]
    result = predict("\n".join(lines), "--output", str(tmp_path / "out.csv"))
    assert "the column 'late', which the first rows do not have. Write JSON lines" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_format_overrides_the_ending(predict: Predict, tmp_path: Path) -> None:
    source = written(tmp_path / "in.txt", f'{{"text": "{GOOD}"}}\n')
    assert objects(predict(source))[0]["text"] == GOOD, "an object in the first line"
    assert "text" not in objects(predict(source, "--format", "lines"))[0]
    assert table(predict(f"text\n{GOOD}\n", "--format", "csv").stdout)[0]["label"] == "good"


def test_a_column_may_be_given(predict: Predict, tmp_path: Path) -> None:
    source = written(tmp_path / "in.csv", f"body,text\n{GOOD},{BAD}\n")
    assert table(predict(source).stdout)[0]["label"] == "bad"
    assert table(predict(source, "--column", "text=body").stdout)[0]["label"] == "good"
    nested = '{"message": {"body": "a warm film"}}\n'
    assert labels(predict(nested, "--column", "text=message.body")) == ["good"]
    assert "Write --column FIELD=COLUMN" in str(predict(source, "--column", "text").exception)


def test_top_k_keeps_the_most_likely_labels(predict: Predict, tmp_path: Path) -> None:
    (answer,) = objects(predict(f"{GOOD}\n", "--top-k", "1"))
    assert list(answer["probabilities"]) == ["good"]
    (row,) = table(predict(written(tmp_path / "in.csv", f"text\n{GOOD}\n"), "--top-k", "5").stdout)
    assert (row["label.1"], row["label.2"]) == ("good", "bad")
    assert float(row["probability.1"]) > float(row["probability.2"])


def test_a_label_below_the_threshold_is_not_given(predict: Predict) -> None:
    lines = f"{GOOD}\nunknown words\n"
    assert labels(predict(lines, "--threshold", "0.6")) == ["good", None]
    assert labels(predict(lines, "--threshold", "0.6", "--abstain-label", "ask")) == ["good", "ask"]
    assert predict(lines, "--threshold", "0.6").exit_code == 0
    assert "needs a threshold" in str(predict(lines, "--abstain-label", "ask").exception)


def test_utf_16_is_read(predict: Predict, tmp_path: Path) -> None:
    result = predict(written(tmp_path / "in.csv", f"text,n\r\n{GOOD},1\r\n".encode("utf-16")))
    assert table(result.stdout)[0]["label"] == "good"


def test_highlight_names_the_words_that_decided(predict: Predict, tmp_path: Path) -> None:
    (answer,) = objects(predict("Some warm film.\n", "--highlight"))
    assert answer["highlight"][0] == "warm"
    source, target = tmp_path / "x.csv", tmp_path / "y.csv"
    source.write_text("text\nSome dull film.\n \n")
    assert predict(source, "--highlight", "--output", str(target)).exit_code == 1
    rows = table(target.read_text())
    assert json.loads(rows[0]["highlight"])[0] == "dull"
    assert rows[1]["highlight"] == ""


def test_a_line_that_is_not_utf8_is_rejected_in_a_file_that_is(predict: Predict, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{GOOD} für {n}"}, ensure_ascii=False).encode() for n in range(3)]
    result = predict(written(tmp_path / "in.jsonl", b"\n".join([*lines, b'{"text": "sch\xf6n"}', *lines])))
    assert (result.exit_code, labels(result)) == (1, ["good"] * 3 + [None] + ["good"] * 3)
    assert "in.jsonl:4: not UTF-8." in result.stderr and "in.jsonl as" not in result.stderr


@pytest.mark.parametrize("encoding", ["gb18030", "latin-1", "utf-16", "utf-16-le", "shift_jis"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encoding_and_delimiter_are_recognized(encoding: str, delimiter: str, predict: Predict, tmp_path: Path) -> None:
    note = {"gb18030": "这个电影的音乐很好听", "shift_jis": "この映画の音楽はとても好きです"}.get(
        encoding, "Grüße aus München"
    )
    rows = [f"{number}{delimiter}{(GOOD, BAD)[number % 2]}{delimiter}{note} {number}" for number in range(30)]
    content = "\n".join([delimiter.join(("id", "text", "note")), *rows]) + "\n"
    result = predict(written(tmp_path / "in.csv", content.encode(encoding)))
    assert result.exit_code == 0, result.stderr
    answers = table(result.stdout, delimiter)
    assert [row["label"] for row in answers] == ["good", "bad"] * 15
    assert [row["note"] for row in answers] == [f"{note} {number}" for number in range(30)]
    assert "in.csv as " in result.stderr


def test_a_text_with_many_semicolons_does_not_decide_on_the_delimiter(predict: Predict, tmp_path: Path) -> None:
    rows = [f'"{GOOD}; really; so; {number}",x' for number in range(5)]
    result = predict(written(tmp_path / "in.csv", "\n".join(['text,"a;b;c"', *rows]) + "\n"))
    assert [row["label"] for row in table(result.stdout)] == ["good"] * 5


@pytest.mark.parametrize("name", ["in.json", "in.jsonl"])
def test_a_json_array_has_an_answer_per_object(name: str, predict: Predict, tmp_path: Path) -> None:
    rows = [{"text": GOOD, "id": 1}, 7, {"text": BAD, "id": 2}]
    result = predict(written(tmp_path / name, json.dumps(rows, indent=1)))
    assert result.exit_code == 1
    assert [(item.get("id"), item["label"]) for item in objects(result)] == [(1, "good"), (None, None), (2, "bad")]
    assert f"{name}, item 2: not a JSON object." in result.stderr


def test_zst_files_are_read_and_written(predict: Predict, tmp_path: Path) -> None:
    packed = pyarrow.compress(f"text\n{GOOD}\n{BAD}\n".encode(), codec="zstd", asbytes=True)
    result = predict(written(tmp_path / "in.csv.zst", packed), "--output", str(tmp_path / "out.csv.zst"))
    assert result.exit_code == 0, result.stderr
    with pyarrow.input_stream(str(tmp_path / "out.csv.zst"), compression="zstd") as file:
        assert [row["label"] for row in table(file.read().decode())] == ["good", "bad"]
