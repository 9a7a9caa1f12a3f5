"""Notes about a database, and a process that sends records after a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.store.location import open_store
from cluster.tracking import sender
from cluster.tracking.server import Destination
from cluster.tracking.server_notes import FILE, ServerNotes
from cluster.tracking.tracker import Tracker
from tests.support.mlflow_helpers import runs, wait_until_sent


def destination(store: Path, uri: str = "") -> Destination:
    store.mkdir(exist_ok=True)
    return Destination(store, "films", uri)


def test_notes_of_a_database_are_added_up(tmp_path: Path) -> None:
    films = destination(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"database")
    assert ServerNotes.read(films) == ServerNotes()
    ServerNotes.read(films).add(films, "1", {"films.classifier": "a"})
    books = Destination(tmp_path, "books")
    ServerNotes.read(books).add(books, "2", {"books.classifier": "b", "films.classifier": "c"})
    assert ServerNotes.read(films) == ServerNotes(
        {"films": "1", "books": "2"}, {"films.classifier": "c", "books.classifier": "b"}
    )


@pytest.mark.parametrize("change", ["replaced", "removed", "moved", "damaged", "foreign"])
def test_notes_do_not_count_for_another_database(tmp_path: Path, change: str) -> None:
    films = destination(tmp_path / "store")
    database = tmp_path / "store" / "mlflow.db"
    database.write_bytes(b"database")
    ServerNotes().add(films, "1", {})
    assert ServerNotes.read(films).experiments == {"films": "1"}
    if change == "replaced":
        shutil.copy(database, tmp_path / "copy")
        (tmp_path / "copy").replace(database)
    elif change == "removed":
        database.unlink()
    elif change == "moved":
        films = destination((tmp_path / "store").rename(tmp_path / "other"))
    else:
        name = next(iter(json.loads((tmp_path / "store" / FILE).read_text())))
        text = "{" if change == "damaged" else json.dumps({name: {"runs": 1}})
        (tmp_path / "store" / FILE).write_text(text)
    assert ServerNotes.read(films) == ServerNotes()


def test_there_are_no_notes_about_servers(tmp_path: Path) -> None:
    server = destination(tmp_path, "http://127.0.0.1:5000")
    ServerNotes().add(server, "1", {})
    assert not (tmp_path / FILE).exists()


@pytest.mark.timeout(300)
def test_records_of_a_run_are_sent_by_another_process(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with Tracker.open(store.local, "films", "run 1") as first:
        pass
    with Tracker.open(store.local, "films", "run 2", experiment_id=first.experiment_id) as second:
        second.parent.log_metrics({"accuracy": 0.5})
        assert second.runs_page == first.runs_page
    assert second.new_problems() == []
    wait_until_sent(store.local)
    run = runs(store)["run 2"]
    assert (run.info.status, run.data.metrics["accuracy"]) == ("FINISHED", 0.5)


def test_a_process_that_cannot_be_started_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(store: Path) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(sender, "start", fail)
    with Tracker.open(tmp_path, "films", "run 1", experiment_id="1") as tracker:
        pass
    assert tracker.new_problems() == [
        "no process was started that sends the records to MLflow (Resource temporarily unavailable)."
    ]
    assert len(list((tmp_path / "outbox").iterdir())) == 1, "the next run sends them"
