"""`predict` reads datasets of the hub and databases as `init` does."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import datasets
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.serving.remote_rows import remote_rows, shown_name
from stages.common.errors import DataError, InputError
from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier

ROWS = [(1, "a warm film", "2024-05-01"), (2, "", None), (3, "a dull film", "2024-05-03")]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database with a table of reviews, in the current folder."""
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("films.db") as connection:
        connection.execute("create table reviews (id integer, text text, day date)")
        connection.executemany("insert into reviews values (?, ?, ?)", ROWS)
    connection.close()
    return "sqlite:///films.db"


def predict(tmp_path: Path, source: str, *options: str) -> Result:
    examples = [Example(f"{n}", {"text": ROWS[n % 2 * 2][1]}, ("good", "bad")[n % 2]) for n in range(8)]
    (tmp_path / "model").mkdir()
    TfidfClassifier(("bad", "good"), ("text",), "word").fit(examples).save(tmp_path / "model")
    return CliRunner().invoke(app, ["predict", str(tmp_path / "model"), "--input", source, *options])


def test_rows_of_a_table_keep_their_columns(database: str, tmp_path: Path) -> None:
    result = predict(tmp_path, f"{database}#reviews", "--output", "labels.csv")
    assert result.exit_code == 1, "one row has no text"
    with Path("labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["label"], row["day"]) for row in rows] == [
        ("1", "good", "2024-05-01"), ("2", "", ""), ("3", "bad", "2024-05-03")
    ]  # fmt: skip
    assert "rejected  reviews, row 2" in result.stderr


def test_a_query_without_a_column_of_the_field_is_an_error(database: str, tmp_path: Path) -> None:
    result = predict(tmp_path, f"{database}#select id, day from reviews")
    assert isinstance(result.exception, DataError) and "no column 'text'" in str(result.exception)


def test_rows_of_the_hub_are_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "films").mkdir()
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text, _ in ROWS[::2])
    (tmp_path / "films" / "test.jsonl").write_text(lines)
    load = datasets.load_dataset
    folder, cache = str(tmp_path / "films"), str(tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **settings: load(folder, cache_dir=cache, **settings))
    monkeypatch.setattr("stages.common.data.hub.hub_has_dataset", lambda asset: True)
    result = predict(tmp_path, "hf:org/films?split=test")
    assert result.exit_code == 0, result.exception
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["good", "bad"]


@pytest.mark.parametrize(
    ("source", "options", "problem"),
    [
        ("sqlite:///films.db#nothing", (), "no such table"),
        ("sqlite:///films.db", (), "names no table"),
        ("sqlite:///films.db#reviews", ("--format", "csv"), "no file format"),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_cannot_be_read_is_an_error(source: str, options: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    result = predict(tmp_path, source, *options)
    assert isinstance(result.exception, InputError) and problem in str(result.exception)


def test_an_empty_table_has_no_rows(database: str) -> None:
    assert list(remote_rows(f"{database}#select * from reviews where id > 9").rows) == []


def test_names_in_messages_have_no_password() -> None:
    assert shown_name("postgresql://user:secret@host/db#reviews") == "reviews"
