"""Generated texts are streamed by the real application, and a client that leaves stops the model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from pipelines.serving.generation_predictor import GenerationPredictor
from pipelines.serving.predictors import Predictor
from pipelines.serving.service.app import Service
from pipelines.serving.service.batcher import BatchingConfig, DynamicBatcher, Metrics
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import ListenAddress, listen
from stages.common.models.backbones.loader import load_backbone
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import save_prompt
from stages.generation.config import DecodingConfig, GenerationServingConfig
from tests.support.generation_data import METHODS, TABLES
from tests.support.services import Toy
from tests.support.small_models import TOKENIZERS, backbone_config, small_model

ROW = {"name": "The audience", "food": "great"}
LENGTH = 100


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Strategy -> folder of a prompt that was not trained. The model ends no text before its maximum length."""
    root = tmp_path_factory.mktemp("streaming")
    tokenizer = TOKENIZERS["gpt2"]()
    torch.manual_seed(7)
    model = small_model("gpt2", len(tokenizer), tokenizer)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    config = backbone_config(root / "model", max_length=48)
    backbone = load_backbone(config, frozen=True)
    prompt = new_prompt(METHODS["prefix_tuning"], backbone, TABLES.input_pattern, seed=1)
    assert prompt is not None
    for strategy in ("greedy", "sample", "beam"):
        task = TABLES.model_copy(update={"max_new_tokens": LENGTH, "decoding": DecodingConfig(strategy=strategy)})
        save_prompt(prompt, backbone, root / strategy / "prompt", "prefix_tuning")
        GenerationServingConfig(task=task, backbone=config).save(root / strategy)
    return {strategy: root / strategy for strategy in ("greedy", "sample", "beam")}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[], Predictor[Any]]], int]]:
    """Starts the application in a thread; returns its port."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(load: Callable[[], Predictor[Any]]) -> int:
        metrics = Metrics()
        queue = DynamicBatcher(load, BatchingConfig(), metrics)
        ready = threading.Event()

        @asynccontextmanager
        async def lifespan(app: Any) -> Any:
            queue.start(ready.set, ready.set)
            yield
            queue.stop()

        app = Service(queue, RequestLimits(), metrics, {}).app(lifespan)
        listener = listen(ListenAddress(port=0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        servers.append((server, thread))
        assert ready.wait(120)
        assert queue.error is None
        return int(listener.getsockname()[1])

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def send(connection: HTTPConnection, body: Any) -> HTTPResponse:
    connection.request("POST", "/generate", json.dumps(body).encode())
    return connection.getresponse()


def events_of(text: str) -> list[tuple[str, Any]]:
    """Returns name and data of each event."""
    events = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((lines.get("event", ""), json.loads(lines["data"])))
    return events


@pytest.mark.parametrize("strategy", ["greedy", "sample"])
def test_the_parts_of_a_streamed_text_are_the_text(
    strategy: str, folders: dict[str, Path], serve: Callable[..., int]
) -> None:
    predictor = GenerationPredictor(folders[strategy])
    expected = predictor.predict([predictor.parse_row(ROW, "0")])[0]
    port = serve(lambda: predictor)
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        response = send(connection, {"inputs": [ROW], "stream": True})
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events = events_of(response.read().decode())
        assert len(events) > 20, "the text comes in many parts"
        assert events[-1] == ("end", expected)
        assert "".join(data["text"] for name, data in events[:-1]) == expected["generated_text"]
        assert {name for name, _ in events[:-1]} == {""}
        whole = json.loads(send(connection, {"inputs": [ROW, ROW]}).read())
    assert whole["predictions"][0] == expected


def test_a_client_that_leaves_stops_the_model(folders: dict[str, Path], serve: Callable[..., int]) -> None:
    predictor = GenerationPredictor(folders["greedy"])
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        time.sleep(0.02)

    port = serve(lambda: predictor)
    predictor._model.backbone.model.register_forward_pre_hook(count)
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    response = send(connection, {"inputs": [ROW], "stream": True})
    assert response.readline().startswith(b"data: ")
    response.close()
    connection.close()
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as other:
        assert send(other, {"inputs": [ROW]}).status == 200, "the thread of the model is free again"
    assert LENGTH <= passes < 1.5 * LENGTH, "the second text was written to its end, but not the first"


def test_bad_requests_are_refused(folders: dict[str, Path], serve: Callable[..., int]) -> None:
    def refused(port: int, body: Any) -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            response = send(connection, body)
            answer = json.loads(response.read())
            assert answer["remedy"]
            return response.status, answer["error"]

    beams = serve(lambda: GenerationPredictor(folders["beam"]))
    assert refused(beams, {"inputs": [ROW], "stream": True}) == (
        422,
        "the task is decoded with beams, which write no text before its end.",
    )
    assert refused(beams, {"inputs": [ROW, ROW], "stream": True}) == (422, "2 texts cannot be streamed.")
    assert refused(beams, {"inputs": [ROW], "stream": 1}) == (422, "stream is neither true nor false.")
    assert refused(beams, {"inputs": [{"name": "It"}], "stream": True})[0] == 422
    assert refused(beams, [])[0] == 400
    assert refused(serve(Toy), {"texts": ["a"], "stream": True}) == (422, "the served model writes no texts.")
