"""`clozeline serve`: real processes, asked over HTTP. What is about the service alone is asked of a toy model."""

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

import pytest

from tests.support.services import Service, ask, service

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def toy() -> Iterator[Service]:
    with service("toy") as found:
        yield found


def test_answers_come_in_the_order_of_the_texts(toy: Service) -> None:
    assert [item["label"] for item in toy.predict(["b", "a", "c", "a"])] == ["B", "A", "C", "A"]
    assert toy.predict([]) == []
    rows = {"inputs": [{"text": "x", "id": 7}, {"text": "y"}]}
    assert toy.ask("POST", "/predict", rows).body == {"predictions": [{"label": "X"}, {"label": "Y"}]}


def test_the_root_tells_what_is_served_and_its_example_works(toy: Service) -> None:
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
        ({"texts": ["a", 7]}, 422, "texts[1]", "a number, not text"),
        ({"texts": ["a", None]}, 422, "texts[1]", "null, not text"),
        ({"texts": ["a", " "]}, 422, "texts[1]", "'text' is empty"),
        ({"texts": ["a", "\ud800"]}, 422, "texts[1]", "surrogate"),
        ({"texts": ["a"], "top": 3}, 422, "top", "'top' is not known"),
        ({"inputs": ["a"]}, 422, "inputs[0]", "a string, not an object"),
        ({"inputs": [{"text": "a"}, {"txt": "b"}]}, 422, "inputs[1].text", "'text' is missing"),
        ({"inputs": [{"text": 5}]}, 422, "inputs[0].text", "'text' is no text"),
        ({"texts": ["a"] * 9}, 413, "texts", "9 texts are more than 8"),
        ({"texts": ["a" * 2000]}, 413, None, "larger than 2000 bytes"),
    ],
)  # fmt: skip
def test_bad_bodies_are_refused_with_field_and_remedy(
    body: Any, status: int, field: str | None, words: str, toy: Service
) -> None:
    found = toy.ask("POST", "/predict", body)
    assert (found.status, found.body.get("field")) == (status, field), found.body
    assert words in found.body["error"] and found.body["remedy"]


def test_a_large_body_is_refused_however_it_is_sent(toy: Service) -> None:
    chunks = iter([b"x" * 1000] * 3000)
    assert toy.ask("POST", "/predict", b"x" * 3_000_000).status == 413
    assert toy.ask("POST", "/predict", chunks).status == 413
    assert toy.predict(["a"]) == [{"label": "A"}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("POST", "/health", 405), ("GET", "/nowhere", 404), ("PUT", "/", 405)],
)
def test_other_addresses_are_named(method: str, path: str, status: int, toy: Service) -> None:
    found = toy.ask(method, path)
    assert found.status == status
    assert f"{method} {path}" in found.body["error"] and "POST /predict" in found.body["remedy"]


def test_fifty_clients_at_once_get_their_own_answers_in_shared_batches(toy: Service) -> None:
    before = toy.metrics()
    until = time.monotonic() + 3

    def client(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", toy.port, timeout=60)
        count = 0
        while time.monotonic() < until:
            texts = [f"client {number} text {count}", f"slow 0.002 {number}"]
            found = ask(connection, "POST", "/predict", {"texts": texts})
            assert found.status == 200, found
            assert [item["label"] for item in found.body["predictions"]] == [text.upper() for text in texts]
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(50) as pool:
        counts = list(pool.map(client, range(50)))
    assert min(counts) >= 1, "each had its turn"
    after = toy.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["clozeline_requests_total,code=200,path=/predict"] == sum(counts)
    assert grown["clozeline_request_seconds_count"] == sum(counts)
    assert grown["clozeline_texts_total"] == grown["clozeline_batch_texts_sum"] == 2 * sum(counts)
    assert grown["clozeline_batch_texts_count"] < sum(counts), "batches are of several requests"
    assert after["clozeline_batch_texts_bucket,le=64.0"] == after["clozeline_batch_texts_count"], "max_batch holds"
    assert (after["clozeline_queue_texts"], after["clozeline_ready"]) == (0, 1)


def test_a_text_on_which_the_model_fails_costs_no_other_request(toy: Service) -> None:
    failed = toy.metrics()["clozeline_failed_texts_total"]
    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(toy.predict, ["slow 0.5"])
        time.sleep(0.2)  # the next ones wait for it, and are a batch
        good = [pool.submit(toy.predict, [text, "b"]) for text in ("a", "c")]
        bad = pool.submit(toy.ask, "POST", "/predict", {"texts": ["a", "fail"]})
        assert busy.result() == [{"label": "SLOW 0.5"}]
        assert [item.result()[0]["label"] for item in good] == ["A", "C"]
    assert bad.result().status == 500
    assert "ZeroDivisionError: the toy broke" in bad.result().body["error"]
    assert toy.metrics()["clozeline_failed_texts_total"] == failed + 1
    assert any("the toy broke" in line for line in toy.printed), "the log has the trace"


def test_a_full_queue_says_when_to_come_again() -> None:
    with service("toy", json.dumps({"max_queue": 4, "max_batch": 1})) as found, ThreadPoolExecutor(2) as pool:
        busy = pool.submit(found.predict, ["slow 1", "a", "b", "c"])
        time.sleep(0.4)
        assert found.metrics()["clozeline_queue_texts"] == 3
        refused = found.ask("POST", "/predict", {"texts": ["x", "y"]})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert found.predict(["x"]) == [{"label": "X"}], "one more may wait"
        assert len(busy.result()) == 4
        assert found.metrics()["clozeline_requests_total,code=503,path=/predict"] == 1


def test_it_is_ready_only_when_the_model_is_loaded(tmp_path: Path) -> None:
    with service("toy", json.dumps({"loaded": str(tmp_path / "go")}), wait=False) as found:
        for method, path, body in (("GET", "/health", None), ("POST", "/predict", {"texts": ["a"]})):
            early = found.ask(method, path, body)
            assert (early.status, early.headers["retry-after"]) == (503, "5")
        assert found.ask("GET", "/").body["ready"] is False
        assert found.metrics()["clozeline_ready"] == 0
        (tmp_path / "go").write_text("now")
        found.wait_until_ready()
        assert found.ask("GET", "/").body["ready"] is True
        assert found.predict(["a"]) == [{"label": "A"}]


def test_a_model_that_cannot_be_loaded_ends_the_service_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "go").write_text("broken")
    with service("toy", json.dumps({"loaded": str(tmp_path / "go")}), wait=False) as found:
        assert found.process.wait(60) != 0
    assert any("the toy is broken. Mend it." in line for line in found.printed)


def test_sigterm_answers_what_was_asked_and_nothing_new() -> None:
    with service("toy") as found, ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(found.predict, [f"slow 1 {number}", "a"]) for number in range(8)]
        time.sleep(0.4)
        begun = time.monotonic()
        ended = pool.submit(found.stop)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", found.port), timeout=5)
        assert [len(item.result()) for item in asked] == [2] * 8
        assert ended.result() == 0
        assert time.monotonic() - begun < 20
    assert "stopped" in found.printed[-1]


def test_a_client_that_hangs_up_harms_nobody(toy: Service) -> None:
    body = json.dumps({"texts": ["slow 0.3"]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head + body[:5], head + body):
        with socket.create_connection(("127.0.0.1", toy.port), timeout=5) as gone:
            gone.sendall(sent)
    assert toy.predict(["a"]) == [{"label": "A"}]


def test_a_taken_port_is_told_with_its_remedy(smoke_run: tuple[Path, str], clozeline: Clozeline, toy: Service) -> None:
    done = clozeline("serve", "smoke", "--store", str(smoke_run[0]), "--port", str(toy.port))
    assert done.returncode == 2
    assert f"port {toy.port} of 127.0.0.1 is in use" in done.stderr and "--port 0" in done.stderr


def test_what_was_not_run_is_told_before_anything_is_loaded(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("serve", "smoke", "--store", str(tmp_path))
    assert done.returncode == 2
    assert "distill/0 of smoke has no result" in done.stderr and "clozeline run smoke" in done.stderr


TEXTS = ["A joy from start to end.", "Dull.", "The plot, in three acts, with a hero."]


def test_the_student_answers_as_predict_does(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    store = str(smoke_run[0])
    done = clozeline("predict", "smoke", "--store", store, "--input", "-", stdin="\n".join(TEXTS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    with service("smoke", "--store", store) as found:
        answers = found.predict(TEXTS)
        about = found.ask("GET", "/").body
        with ThreadPoolExecutor(50) as pool:  # in batches with others' texts, padded to their lengths
            many = list(pool.map(lambda number: found.predict([TEXTS[number % 3]])[0]["label"], range(300)))
        assert found.stop() == 0
    assert [item["label"] for item in answers] == [item["label"] for item in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert many == [answers[number % 3]["label"] for number in range(300)]
    (model,) = about["models"]
    assert (model["step"], about["labels"]) == ("distill/0", ["rotten", "fresh"])
    assert (smoke_run[0] / model["step"] / model["fingerprint"]).is_dir()


def test_prompts_of_several_tasks_answer_in_one_request(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    store = str(smoke_run[0])
    tasks = ("rotten_tomatoes", "plot_or_quote")
    rows = [{"task": tasks[number % 2], "text": TEXTS[number % 3]} for number in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = clozeline("predict", "smoke", "--prompts", "ppt", "--store", store, "--input", "-", stdin=lines)
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    with service("smoke", "--prompts", "ppt", "--store", store) as found:
        answers = found.ask("POST", "/predict", {"inputs": rows}).body["predictions"]
        plain = found.ask("POST", "/predict", {"texts": TEXTS, "task": tasks[1]}).body["predictions"]
        unknown = found.ask("POST", "/predict", {"inputs": [{"task": "weather", "text": "x"}]})
        unnamed = found.ask("POST", "/predict", {"texts": TEXTS})
        about = found.ask("GET", "/").body
    assert [(item["task"], item["label"]) for item in answers] == [(item["task"], item["label"]) for item in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert {item["task"] for item in plain} == {tasks[1]}
    assert (unknown.status, unknown.body["field"]) == (422, "inputs[0].task")
    assert "'weather'" in unknown.body["error"] and all(task in unknown.body["remedy"] for task in tasks)
    assert (unnamed.status, unnamed.body["field"]) == (422, "task")
    assert about["tasks"]["plot_or_quote"] == {"labels": ["plot", "quote"], "fields": ["text"]}
    assert {item["step"] for item in about["models"]} == {f"prompts/{task}/ppt/0" for task in tasks}


def test_fifty_clients_of_several_tasks_share_batches_and_get_their_own_answers(smoke_run: tuple[Path, str]) -> None:
    tasks = ("rotten_tomatoes", "plot_or_quote")
    rows = [{"task": task, "text": text} for task in tasks for text in TEXTS]
    with service("smoke", "--prompts", "ppt", "--store", str(smoke_run[0])) as found:
        alone = [found.ask("POST", "/predict", {"inputs": [row]}).body["predictions"][0] for row in rows]
        before = found.metrics()
        with ThreadPoolExecutor(50) as pool:
            asked = [{"inputs": [rows[number % len(rows)]]} for number in range(300)]
            many = list(pool.map(lambda body: found.ask("POST", "/predict", body), asked))
        after = found.metrics()
    assert {answer.status for answer in many} == {200}
    for number, answer in enumerate(many):
        (mine,) = answer.body["predictions"]
        expected = alone[number % len(rows)]
        assert (mine["task"], mine["label"]) == (expected["task"], expected["label"])
        assert mine["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    batches = after["clozeline_batch_texts_count"] - before["clozeline_batch_texts_count"]
    assert batches < 200, "texts of several clients stand in a batch"
