"""`clozeline serve` in a separate process over HTTP, with a toy model if the test does not need a real one."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipelines.serving.service.batcher import BatchingConfig
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import ListenAddress, ServiceConfig
from stages.common.errors import InputError
from tests.support.services import Service, ask, service

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def toy() -> Iterator[Service]:
    with service("toy") as server:
        yield server


def test_predictions_keep_the_order_of_the_texts(toy: Service) -> None:
    assert [item["label"] for item in toy.predict(["b", "a", "c", "a"])] == ["B", "A", "C", "A"]
    assert toy.predict([]) == []
    rows = {"inputs": [{"text": "x", "id": 7}, {"text": "y"}]}
    assert toy.ask("POST", "/predict", rows).body == {"predictions": [{"label": "X"}, {"label": "Y"}]}


def test_root_describes_the_model_with_a_valid_example(toy: Service) -> None:
    about = toy.ask("GET", "/").body
    assert (about["ready"], about["models"], about["fields"], about["labels"]) == (
        True, [{"folder": "toy"}], ["text"], ["any"],
    )  # fmt: skip
    assert about["limits"] == {"max_texts": 8, "max_bytes": 2000}
    assert toy.ask("POST", "/predict", about["example"]["POST /predict"]).status == 200


@pytest.mark.parametrize(
    ("body", "status", "field", "words"),
    [
        (b"[[[", 400, None, "not JSON"),
        (b"\xff{}", 400, None, "not UTF-8 (byte 0)"),
        (b"[" * 1900, 400, None, ""),
        (b"[1]", 400, None, "a list, not a JSON object"),
        (b"", 400, None, "not JSON"),
        ({}, 422, "texts", "neither texts nor inputs"),
        ({"texts": [], "inputs": []}, 422, "texts", "both texts and inputs"),
        ({"texts": "a"}, 422, "texts", "a string, not a list"),
        ({"texts": ["a", 7]}, 422, "texts[1]", "a number, not a string"),
        ({"texts": ["a", None]}, 422, "texts[1]", "null, not a string"),
        ({"texts": ["a", " "]}, 422, "texts[1]", "'text' is empty"),
        ({"texts": ["a", "\ud800"]}, 422, "texts[1]", "surrogate"),
        ({"texts": ["a"], "top": 3}, 422, "top", "unknown field 'top'"),
        ({"inputs": ["a"]}, 422, "inputs[0]", "a string, not an object"),
        ({"inputs": [{"text": "a"}, {"txt": "b"}]}, 422, "inputs[1].text", "'text' is missing"),
        ({"inputs": [{"text": 5}]}, 422, "inputs[0].text", "'text' is not text"),
        ({"texts": ["a"] * 9}, 413, "texts", "9 texts exceed the maximum of 8"),
        ({"texts": ["a" * 2000]}, 413, None, "larger than 2000 bytes"),
    ],
)  # fmt: skip
def test_bad_bodies_are_errors_with_field_and_remedy(
    body: Any, status: int, field: str | None, words: str, toy: Service
) -> None:
    response = toy.ask("POST", "/predict", body)
    assert (response.status, response.body.get("field")) == (status, field), response.body
    assert words in response.body["error"] and response.body["remedy"]


def test_large_bodies_are_rejected(toy: Service) -> None:
    chunks = iter([b"x" * 1000] * 3000)
    assert toy.ask("POST", "/predict", b"x" * 3_000_000).status == 413
    assert toy.ask("POST", "/predict", chunks).status == 413
    assert toy.predict(["a"]) == [{"label": "A"}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("POST", "/health", 405), ("GET", "/unknown", 404), ("PUT", "/", 405)],
)
def test_other_routes_are_errors(method: str, path: str, status: int, toy: Service) -> None:
    response = toy.ask(method, path)
    assert response.status == status
    assert f"{method} {path}" in response.body["error"] and "POST /predict" in response.body["remedy"]


def test_fifty_clients_share_batches(toy: Service) -> None:
    before = toy.metrics()
    until = time.monotonic() + 3

    def client(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", toy.port, timeout=60)
        count = 0
        while time.monotonic() < until:
            texts = [f"client {number} text {count}", f"slow 0.002 {number}"]
            response = ask(connection, "POST", "/predict", {"texts": texts})
            assert response.status == 200, response
            assert [item["label"] for item in response.body["predictions"]] == [text.upper() for text in texts]
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(50) as pool:
        counts = list(pool.map(client, range(50)))
    assert min(counts) >= 1, "each client was served"
    after = toy.metrics()
    increase = {name: after[name] - before.get(name, 0) for name in after}
    assert increase["clozeline_requests_total,code=200,path=/predict"] == sum(counts)
    assert increase["clozeline_request_seconds_count"] == sum(counts)
    assert increase["clozeline_texts_total"] == increase["clozeline_batch_texts_sum"] == 2 * sum(counts)
    assert increase["clozeline_batch_texts_count"] < sum(counts), "batches combine requests"
    assert after["clozeline_batch_texts_bucket,le=64.0"] == after["clozeline_batch_texts_count"], (
        "max_batch is the limit"
    )
    assert (after["clozeline_queue_texts"], after["clozeline_ready"]) == (0, 1)


def test_text_that_fails_does_not_fail_other_requests(toy: Service) -> None:
    failed = toy.metrics()["clozeline_failed_texts_total"]
    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(toy.predict, ["slow 0.5"])
        time.sleep(0.2)  # the next requests wait and form a batch
        good = [pool.submit(toy.predict, [text, "b"]) for text in ("a", "c")]
        bad = pool.submit(toy.ask, "POST", "/predict", {"texts": ["a", "fail"]})
        assert busy.result() == [{"label": "SLOW 0.5"}]
        assert [item.result()[0]["label"] for item in good] == ["A", "C"]
    assert bad.result().status == 500
    assert "ZeroDivisionError: the toy broke" in bad.result().body["error"]
    assert toy.metrics()["clozeline_failed_texts_total"] == failed + 1
    assert any("the toy broke" in line for line in toy.printed), "the log has the traceback"


def test_full_queue_returns_retry_after() -> None:
    with service("toy", json.dumps({"max_queue": 4, "max_batch": 1})) as server, ThreadPoolExecutor(2) as pool:
        busy = pool.submit(server.predict, ["slow 1", "a", "b", "c"])
        time.sleep(0.4)
        assert server.metrics()["clozeline_queue_texts"] == 3
        rejected = server.ask("POST", "/predict", {"texts": ["x", "y"]})
        assert (rejected.status, rejected.headers["retry-after"]) == (503, "1")
        assert server.predict(["x"]) == [{"label": "X"}], "the queue has room for one text"
        assert len(busy.result()) == 4
        assert server.metrics()["clozeline_requests_total,code=503,path=/predict"] == 1


def test_service_is_ready_when_the_model_is_loaded(tmp_path: Path) -> None:
    with service("toy", json.dumps({"loaded": str(tmp_path / "go")}), wait=False) as server:
        for method, path, body in (("GET", "/ready", None), ("POST", "/predict", {"texts": ["a"]})):
            early = server.ask(method, path, body)
            assert (early.status, early.headers["retry-after"]) == (503, "5")
        assert server.ask("GET", "/health").status == 200, "the process lives"
        assert server.ask("GET", "/").body["ready"] is False
        assert server.metrics()["clozeline_ready"] == 0
        (tmp_path / "go").write_text("now")
        server.wait_until_ready()
        assert server.ask("GET", "/").body["ready"] is True
        assert server.predict(["a"]) == [{"label": "A"}]


def test_error_in_loading_ends_the_service(tmp_path: Path) -> None:
    (tmp_path / "go").write_text("broken")
    with service("toy", json.dumps({"loaded": str(tmp_path / "go")}), wait=False) as server:
        assert server.process.wait(60) != 0
    assert any("the toy is broken. Fix it." in line for line in server.printed)


def test_each_response_has_the_id_of_its_request(toy: Service) -> None:
    for method, path, body in (
        ("GET", "/health", None),
        ("POST", "/predict", {"texts": ["a"]}),
        ("GET", "/nowhere", None),
    ):
        given = toy.ask(method, path, body, x_request_id="order-7/a")
        assert given.headers["x-request-id"] == "order-7/a"
        made = [
            toy.ask(method, path, body, x_request_id=wrong).headers["x-request-id"] for wrong in ("", "a b", "x" * 999)
        ]
        assert len(set(made)) == 3 and all(len(item) == 32 for item in made)


def test_the_access_log_has_a_json_line_per_request_and_no_text(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with service("toy", json.dumps({"access_log": str(log), "api_key": "s3cret"})) as server:
        server.ask(
            "POST", "/predict", {"texts": ["a private text", "b"]}, authorization="Bearer s3cret", x_request_id="7"
        )
        server.ask("POST", "/predict?q=private", {"texts": []})
        assert server.stop() == 0
    entries = map(json.loads, log.read_text().splitlines())
    answered, rejected = (entry for entry in entries if entry["path"] == "/predict")
    assert {key: answered[key] for key in ("request_id", "method", "path", "status", "texts", "client")} == {
        "request_id": "7", "method": "POST", "path": "/predict", "status": 200, "texts": 2, "client": "127.0.0.1"
    }  # fmt: skip
    assert answered["seconds"] >= 0 and answered["time"].endswith("+00:00")
    assert (rejected["status"], rejected["path"]) == (401, "/predict")
    assert "private" not in log.read_text() and "s3cret" not in log.read_text()


def test_requests_need_the_api_key() -> None:
    with service("toy", json.dumps({"api_key": "s3cret"})) as server:
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert server.ask("GET", path).status == 200
        for path in ("/", "/metrics", "/nowhere"):
            assert server.ask("GET", path).status == 401
        for headers in (
            {},
            {"authorization": "Bearer other"},
            {"authorization": "s3cret"},
            {"authorization": "Bearer \xe9"},
        ):
            response = server.ask("POST", "/predict", {"texts": ["a"]}, **headers)
            assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer KEY" in response.body["remedy"]
        assert server.ask("POST", "/predict", {"texts": ["a"]}, authorization="Bearer s3cret").status == 200
        assert "s3cret" not in "".join(server.printed)


@pytest.mark.parametrize("key", ["", "schl\u00fcssel", "a\nb"])
def test_a_key_that_no_header_can_have_is_an_error(key: str) -> None:
    with pytest.raises(InputError, match="API key"):
        ServiceConfig(address=ListenAddress(), limits=RequestLimits(), batching=BatchingConfig(), api_key=key)


def test_the_openapi_document_describes_all_routes(toy: Service) -> None:
    document = toy.ask("GET", "/openapi.json").body
    assert document["openapi"] == "3.1.0" and "security" not in document
    assert set(document["paths"]) == {"/predict", "/generate", "/", "/health", "/ready", "/metrics"}
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.Draft202012Validator.check_schema(content["schema"])
    jsonschema.validate(content["example"], content["schema"])
    for wrong in ({}, {"texts": [], "inputs": []}, {"texts": ["a"] * 9}, {"texts": [1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, content["schema"])
    page = toy.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.body, "the page loads nothing from elsewhere"


def test_sigterm_finishes_open_requests() -> None:
    with service("toy") as server, ThreadPoolExecutor(9) as pool:
        requests = [pool.submit(server.predict, [f"slow 1 {number}", "a"]) for number in range(8)]
        time.sleep(0.4)
        start = time.monotonic()
        ended = pool.submit(server.stop)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        assert [len(item.result()) for item in requests] == [2] * 8
        assert ended.result() == 0
        assert time.monotonic() - start < 20
    assert "stopped" in server.printed[-1]


def test_client_that_disconnects_does_no_harm(toy: Service) -> None:
    body = json.dumps({"texts": ["slow 0.3"]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head + body[:5], head + body):
        with socket.create_connection(("127.0.0.1", toy.port), timeout=5) as gone:
            gone.sendall(sent)
    assert toy.predict(["a"]) == [{"label": "A"}]


def test_port_in_use_is_an_error(smoke_run: tuple[Path, str], clozeline: Clozeline, toy: Service) -> None:
    done = clozeline("serve", "smoke", "--store", str(smoke_run[0]), "--port", str(toy.port))
    assert done.returncode == 2
    assert f"port {toy.port} of 127.0.0.1 is in use" in done.stderr and "--port 0" in done.stderr


def test_missing_result_is_an_error_before_loading(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("serve", "smoke", "--store", str(tmp_path))
    assert done.returncode == 2
    assert "report of smoke has no result" in done.stderr and "clozeline run smoke" in done.stderr


TEXTS = ["A joy from start to end.", "Dull.", "The plot, in three acts, with a hero."]


def test_service_predicts_as_the_command_does(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    store = str(smoke_run[0])
    done = clozeline("predict", "smoke", "--store", store, "--input", "-", stdin="\n".join(TEXTS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    with service("smoke", "--store", store) as server:
        answers = server.predict(TEXTS)
        about = server.ask("GET", "/").body
        with ThreadPoolExecutor(50) as pool:  # in batches with texts of other lengths
            many = list(pool.map(lambda number: server.predict([TEXTS[number % 3]])[0]["label"], range(300)))
        assert server.stop() == 0
    assert [item["label"] for item in answers] == [item["label"] for item in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert many == [answers[number % 3]["label"] for number in range(300)]
    (model,) = about["models"]
    assert (model["step"], about["labels"]) == ("distill/small/0", ["rotten", "fresh"])
    assert (smoke_run[0] / model["step"] / model["fingerprint"]).is_dir()


def test_one_request_may_have_several_tasks(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    store = str(smoke_run[0])
    tasks = ("rotten_tomatoes", "plot_or_quote")
    rows = [{"task": tasks[number % 2], "text": TEXTS[number % 3]} for number in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = clozeline("predict", "smoke", "--prompts", "ppt", "--store", store, "--input", "-", stdin=lines)
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    with service("smoke", "--prompts", "ppt", "--store", store) as server:
        answers = server.ask("POST", "/predict", {"inputs": rows}).body["predictions"]
        plain = server.ask("POST", "/predict", {"texts": TEXTS, "task": tasks[1]}).body["predictions"]
        unknown = server.ask("POST", "/predict", {"inputs": [{"task": "weather", "text": "x"}]})
        unnamed = server.ask("POST", "/predict", {"texts": TEXTS})
        about = server.ask("GET", "/").body
    assert [(item["task"], item["label"]) for item in answers] == [(item["task"], item["label"]) for item in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert {item["task"] for item in plain} == {tasks[1]}
    assert (unknown.status, unknown.body["field"]) == (422, "inputs[0].task")
    assert "'weather'" in unknown.body["error"] and all(task in unknown.body["remedy"] for task in tasks)
    assert (unnamed.status, unnamed.body["field"]) == (422, "task")
    assert about["tasks"]["plot_or_quote"] == {"labels": ["plot", "quote"], "fields": ["text"]}
    assert {item["step"] for item in about["models"]} == {f"prompts/{task}/ppt/0" for task in tasks}


def test_clients_of_several_tasks_share_batches(smoke_run: tuple[Path, str]) -> None:
    tasks = ("rotten_tomatoes", "plot_or_quote")
    rows = [{"task": task, "text": text} for task in tasks for text in TEXTS]
    with service("smoke", "--prompts", "ppt", "--store", str(smoke_run[0])) as server:
        alone = [server.ask("POST", "/predict", {"inputs": [row]}).body["predictions"][0] for row in rows]
        before = server.metrics()
        with ThreadPoolExecutor(50) as pool:
            bodies = [{"inputs": [rows[number % len(rows)]]} for number in range(300)]
            many = list(pool.map(lambda body: server.ask("POST", "/predict", body), bodies))
        after = server.metrics()
    assert {answer.status for answer in many} == {200}
    for number, answer in enumerate(many):
        (prediction,) = answer.body["predictions"]
        expected = alone[number % len(rows)]
        assert (prediction["task"], prediction["label"]) == (expected["task"], expected["label"])
        assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    batches = after["clozeline_batch_texts_count"] - before["clozeline_batch_texts_count"]
    assert batches < 200, "batches combine clients"
