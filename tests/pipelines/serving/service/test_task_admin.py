"""Prompts that are loaded and unloaded while `clozeline serve` runs, over HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipelines.cli.serve import serve
from stages.common.errors import InputError
from tests.support.served_prompts import TEXTS, save_backbone, save_prompts
from tests.support.services import Response, Service, ask, service

KEY, ADMIN_KEY = "for clients", "for admins"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("prompts")
    backbone = save_backbone(root / "backbone")
    one = save_prompts(backbone, root, {"films": 1, "news": 2, "mail": 3})
    two = save_prompts(backbone, root, {"films": 4})
    return {path.name: path for path in (*one, *two)}


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tasks = tmp_path_factory.mktemp("tasks") / "tasks.json"
    with service(
        str(folders["films-1"]), "--api-key", KEY, "--admin-key", ADMIN_KEY, "--tasks", str(tasks),
        "--max-loaded-prompts", "2",
    ) as running:  # fmt: skip
        running.tasks = tasks  # type: ignore[attr-defined]
        yield running


def admin(server: Service, method: str, path: str, body: Any = None, key: str = ADMIN_KEY) -> Response:
    return server.ask(method, f"/v1/tasks{path}", body, authorization=f"Bearer {key}")


def predict(server: Service, *rows: dict[str, str]) -> Response:
    return server.ask("POST", "/predict", {"inputs": list(rows)}, authorization=f"Bearer {KEY}")


def wait_until(is_done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_changes_need_the_admin_key(server: Service, folders: dict[str, Path]) -> None:
    for method, path in (("GET", ""), ("PUT", "/films"), ("DELETE", "/films"), ("PUT", "/films/limits")):
        for key in ("", KEY):
            response = admin(server, method, path, {"folder": str(folders["films-4"])}, key)
            assert (response.status, response.body["error"]) == (401, "the admin key is wrong.")
    assert server.ask("GET", "/", authorization=f"Bearer {ADMIN_KEY}").status == 401, "and the other routes the API key"


def test_tasks_are_added_and_removed(server: Service, folders: dict[str, Path]) -> None:
    added = admin(server, "PUT", "/news", {"folder": str(folders["news-2"]), "version": "2026-12"})
    assert (added.status, added.body["version"], added.body["aliases"]) == (200, "2026-12", {"default": "2026-12"})
    assert set(server.ask("GET", "/", authorization=f"Bearer {KEY}").body["tasks"]) == {"films", "news"}
    rows = [{"task": ("films", "news")[number % 2], "text": TEXTS[0]} for number in range(4)]
    predictions = predict(server, *rows).body["predictions"]
    assert [(item["task"], item["version"]) for item in predictions] == [("films", "1"), ("news", "2026-12")] * 2
    kept = json.loads(server.tasks.read_text())  # type: ignore[attr-defined]
    assert set(kept["tasks"]) == {"films", "news"}
    listed = admin(server, "GET", "").body
    assert listed["tasks"] == kept["tasks"] and listed["loaded_prompts"] == 2
    assert admin(server, "DELETE", "/news").status == 204
    gone = predict(server, {"task": "news", "text": "x"})
    assert (gone.status, gone.body["field"]) == (422, "inputs[0].task")
    assert admin(server, "GET", "/news").status == 404


def test_no_request_fails_while_the_version_changes(server: Service, folders: dict[str, Path], tmp_path: Path) -> None:
    """Clients send requests all the time. Versions are added, made the default and removed, with their files."""
    answers: list[Response] = []
    stop = threading.Event()

    def client(number: int) -> None:
        body = {"inputs": [{"task": "films", "text": f"{TEXTS[number % 3]} {number}"}] * 3}
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            while not stop.is_set():
                answers.append(ask(connection, "POST", "/predict", body, {"authorization": f"Bearer {KEY}"}))

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        for number in range(12):
            copy = shutil.copytree(folders[("films-1", "films-4")[number % 2]], tmp_path / str(number))
            added = admin(server, "PUT", "/films", {"folder": str(copy), "version": f"v{number}"})
            assert added.status == 200, added
            if number:
                assert admin(server, "DELETE", f"/films/versions/v{number - 1}").status == 200
                shutil.rmtree(tmp_path / str(number - 1))
        time.sleep(0.2)
        stop.set()
        for item in clients:
            item.result()
    assert {item.status for item in answers} == {200}, [item for item in answers if item.status != 200][:3]
    served = {prediction["version"] for item in answers for prediction in item.body["predictions"]}
    assert served >= {"v0", "v5", "v11"} and len(served) >= 12, served
    assert admin(server, "PUT", "/films/aliases/default", {"version": "1"}).status == 200
    assert admin(server, "DELETE", "/films/versions/v11").status == 200


def test_aliases_move_between_versions(server: Service, folders: dict[str, Path]) -> None:
    body = {"folder": str(folders["films-4"]), "version": "next", "aliases": ["candidate"]}
    assert admin(server, "PUT", "/films", body).body["aliases"] == {"default": "1", "candidate": "next"}
    rows = [{"task": name, "text": TEXTS[0]} for name in ("films", "films@candidate", "films@1")]
    first, candidate, named = predict(server, *rows).body["predictions"]
    assert (first["version"], candidate["version"], named) == ("1", "next", first)
    assert first["probabilities"] != candidate["probabilities"]
    plain = server.ask("POST", "/predict", {"texts": TEXTS, "task": "films@next"}, authorization=f"Bearer {KEY}")
    assert {item["version"] for item in plain.body["predictions"]} == {"next"}
    refused = admin(server, "DELETE", "/films/versions/next")
    assert (refused.status, "Move the alias" in refused.body["remedy"]) == (409, True)
    assert admin(server, "DELETE", "/films/aliases/candidate").body["aliases"] == {"default": "1"}
    assert admin(server, "DELETE", "/films/versions/next").body["versions"] == {"1": str(folders["films-1"])}


def test_a_task_has_limits(server: Service) -> None:
    assert admin(server, "PUT", "/films/limits", {"max_waiting": 2}).body["limits"]["max_waiting"] == 2
    row = {"task": "films", "text": "x"}
    limited = predict(server, row, row, row)
    assert (limited.status, limited.headers["retry-after"], limited.body["field"]) == (429, "1", "task")
    assert predict(server, row, row).status == 200
    assert admin(server, "PUT", "/films/limits", {"texts_per_second": 1}).status == 200
    assert [predict(server, row).status for _ in range(3)].count(429) >= 1
    assert admin(server, "PUT", "/films/limits", {}).status == 200
    assert predict(server, row, row, row).status == 200
    headers = {"authorization": f"Bearer {KEY}"}
    text = server.ask("GET", "/metrics", **headers).body
    assert 'clozeline_limited_texts_total{task="films"}' in text and "clozeline_loaded_prompts" in text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/mail", {"folder": "/nowhere"}, 422, "has no model"),
        ("PUT", "/mail", {}, 422, "Field required"),
        ("PUT", "/mail", {"folder": "/x", "alias": "a"}, 422, "Extra inputs"),
        ("PUT", "/mail", b"[", 400, "not JSON"),
        ("PUT", "/Mail", {"folder": "/x"}, 422, "is not a name"),
        ("PUT", "/films/limits", {"texts_per_second": 0}, 422, "greater than 0"),
        ("PUT", "/films/aliases/x", {"version": "77"}, 404, "no version '77'"),
        ("DELETE", "/mail", None, 404, "no task 'mail'"),
        ("DELETE", "/films", None, 409, "the last task"),
        ("DELETE", "/films/aliases/default", None, 409, "needs a default version"),
        ("POST", "/films", None, 405, "is not a route"),
    ],
)
def test_a_wrong_change_is_an_error(
    method: str, path: str, body: Any, status: int, words: str, server: Service
) -> None:
    before = admin(server, "GET", "").body
    response = admin(server, method, path, body)
    assert (response.status, words in response.body["error"]) == (status, True), response
    assert response.body["remedy"]
    assert admin(server, "GET", "").body == before


def test_another_process_has_the_tasks_of_the_file(server: Service, folders: dict[str, Path]) -> None:
    """A second service with the same file starts with its tasks, and follows changes of the first one."""
    tasks = str(server.tasks)  # type: ignore[attr-defined]
    assert admin(server, "PUT", "/mail", {"folder": str(folders["mail-3"])}).status == 200
    with service(
        str(folders["films-1"]), "--api-key", KEY, "--admin-key", ADMIN_KEY, "--tasks", tasks
    ) as second:  # fmt: skip
        row = {"task": "mail", "text": TEXTS[0]}
        assert predict(second, row).body == predict(server, row).body
        body = {"folder": str(folders["news-2"]), "limits": {"max_waiting": 1}}
        assert admin(second, "PUT", "/news", body).status == 200
        news = {"task": "news", "text": "x"}
        wait_until(lambda: predict(server, news).status == 200)
        assert predict(server, news, news).status == 429, "limits are followed, too"
        kept = server.tasks.read_text()  # type: ignore[attr-defined]
        broken = kept.replace(str(folders["news-2"]), "/nowhere")
        server.tasks.write_text(broken)  # type: ignore[attr-defined]
        time.sleep(1.5)
        assert predict(second, news).status == predict(server, row).status == 200, "the tasks stay as they were"
        server.tasks.write_text(kept)  # type: ignore[attr-defined]
        assert admin(server, "DELETE", "/news").status == 204
        assert admin(server, "DELETE", "/mail").status == 204
        wait_until(lambda: predict(second, row).status == 422)


def test_the_openapi_document_describes_the_routes(server: Service) -> None:
    document = server.ask("GET", "/openapi.json").body
    paths = {path for path in document["paths"] if path.startswith("/v1/tasks")}
    task = "/v1/tasks/{task}"
    assert paths == {
        "/v1/tasks", task, f"{task}/versions/{{version}}", f"{task}/aliases/{{alias}}", f"{task}/limits"
    }  # fmt: skip
    content = document["paths"][task]["put"]["requestBody"]["content"]["application/json"]
    jsonschema.Draft202012Validator.check_schema(content["schema"])
    assert document["paths"][task]["put"]["security"] == [{"admin": []}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": Path("tasks.json")}, "--tasks needs an admin key"),
        ({"admin_key": "same", "api_key": "same"}, "the admin key is the API key"),
        ({"admin_key": ""}, "the admin key is empty"),
        ({"admin_key": "key", "tasks": Path("/nowhere/tasks.json")}, "folder of /nowhere/tasks.json does not exist"),
        ({"ray": True, "admin_key": "key"}, "share their tasks in a file"),
        ({"ray": True, "access_log": Path("-")}, "no access log in common"),
        ({"ray": True, "replicas": 3, "max_replicas": 2}, "--max-replicas 2 is less"),
    ],
)
def test_wrong_settings_are_errors(settings: dict[str, Any], words: str, folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=words):
        serve(str(folders["films-1"]), **settings)
