"""The label page: each label is in the file at once, and a wrong request changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.cli.app import load_command
from pipelines.labeling.label_file import LabelFile
from pipelines.labeling.page import LabelPage
from stages.common.errors import InputError

LABELS = ("bug", "money")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.labels.csv"
    path.write_text("id,text,label\n1,it crashes,\n2,too much,money\n")
    return path


@pytest.fixture
def client(path: Path) -> TestClient:
    return TestClient(LabelPage(LabelFile.open(path, ("text",)), LABELS).app())


def test_each_label_is_saved_at_once(client: TestClient, path: Path) -> None:
    assert client.get("/state").json() == {
        "file": "tickets.labels.csv",
        "labels": list(LABELS),
        "fields": ["text"],
        "rows": [{"texts": ["it crashes"], "label": ""}, {"texts": ["too much"], "label": "money"}],
    }
    assert client.post("/label", json={"row": 0, "label": "bug"}).json() == {"row": 0, "label": "bug", "num_labeled": 2}
    assert path.read_text() == "id,text,label\n1,it crashes,bug\n2,too much,money\n"
    assert client.post("/label", json={"row": 1, "label": ""}).json()["num_labeled"] == 1
    assert path.read_text() == "id,text,label\n1,it crashes,bug\n2,too much,\n"
    assert "clozeline label" in client.get("/").text


@pytest.mark.parametrize(
    "body", [{"row": 9, "label": "bug"}, {"row": True, "label": "bug"}, {"row": 0, "label": "x"}, {"row": 0}, [], None]
)
def test_wrong_request_changes_nothing(body: Any, client: TestClient, path: Path) -> None:
    before = path.read_text()
    response = client.post("/label", json=body)
    assert response.status_code == 422
    assert response.json().keys() == {"error", "remedy"}
    assert path.read_text() == before


def test_other_sites_cannot_label(client: TestClient, path: Path) -> None:
    before = path.read_text()
    headers = {"origin": "http://other.example"}
    assert client.post("/label", json={"row": 0, "label": "bug"}, headers=headers).status_code == 403
    assert path.read_text() == before
    assert client.post("/label", content="x" * 20_000).status_code == 422
    headers = {"origin": "http://testserver"}
    assert client.post("/label", json={"row": 0, "label": "bug"}, headers=headers).status_code == 200


def test_unknown_labels_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,\n")
    command = load_command("label")
    with pytest.raises(InputError, match=r"labels of .* are unknown"):
        command([str(path)], standalone_mode=False)
    path.write_text("text,label\n")
    with pytest.raises(InputError, match="has no"):
        command([str(path)], standalone_mode=False)
