"""Tests of databases: their rows become a file next to the recipe."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from pipelines.init.database import save_rows
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.data.database import is_database
from stages.common.errors import InputError
from tests.support.init_files import TOPICS, draw_splits, init


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database with a table whose name needs quotes."""
    monkeypatch.chdir(tmp_path)
    names = list(TOPICS)
    with sqlite3.connect("tickets.db") as connection:
        connection.execute('create table "old tickets" (message text, team text)')
        rows = [(f"{TOPICS[names[i % 3]]} of case {i}", names[i % 3] if i < 60 else None) for i in range(120)]
        connection.executemany('insert into "old tickets" values (?, ?)', rows)
    connection.close()
    return "sqlite:///tickets.db"


def test_init_reads_a_table_and_a_query(database: str, backbone: str) -> None:
    test = f"{database}#select message, team from \"old tickets\" where team = 'bug' or team = 'billing' limit 9"
    flags = ("--test", test, "--backbone", "none", "--student", backbone, "--output", "made.yaml")
    done = init(f"{database}#old tickets", *flags)
    assert done.exit_code == 0, done.exception
    splits = draw_splits(read_recipe(Path("made.yaml"), PipelineConfig))
    assert (len(splits.train), len(splits.test), len(splits.unlabeled)) == (60, 9, 60)
    assert "asset: made_train.jsonl" in Path("made.yaml").read_text()
    assert "exists" in str(init(f"{database}#old tickets", *flags).exception)


def test_rows_are_json_lines(database: str) -> None:
    assert save_rows(f"{database}#old tickets", Path("a.jsonl"), force=False) == "a.jsonl"
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert len(rows) == 120 and rows[0] == {"message": "the invoice of case 0", "team": "billing"}
    assert rows[-1]["team"] is None


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("sqlite:///tickets.db", "names no table"),
        ("sqlite:///tickets.db#nothing", "no such table"),
        ("sqlite:///no/folder/x.db#nothing", "unable to open"),
        ("postgresql+nodriver://user:secret@host/db#t", "cannot read"),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_cannot_be_read_is_an_error(reference: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        save_rows(reference, Path("a.jsonl"), force=False)
    assert "secret" not in str(caught.value) and not Path("a.jsonl").exists()


def test_a_missing_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(InputError, match="not installed"):
        save_rows("sqlite:///x.db#t", Path("a.jsonl"), force=False)


@pytest.mark.parametrize("reference", ["data.csv", "hf:org/name", "https://host/x.csv", "s3://bucket/x.csv", "-"])
def test_other_references_are_no_databases(reference: str) -> None:
    assert not is_database(reference)
