"""`clozeline serve --ray`: the same answers as the plain service, from two replicas."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster.errors import SessionError
from cluster.run.capacity import Capacity, Machine
from cluster.run.ray_serve import ReplicaPlan
from tests.support.programs import loading_replicas
from tests.support.served_prompts import TEXTS, save_backbone, save_prompts
from tests.support.services import Service, service

KEY = {"authorization": "Bearer for clients"}
ADMIN_KEY = {"authorization": "Bearer for admins"}
ON_RAY = ("--ray", "--replicas", "2", "--replica-cpus", "0.5")
needs_ray_serve = pytest.mark.skipif(find_spec("grpc_reflection") is None, reason="needs the extra ray-serve")


def names_of_replicas(server: Service, count: int, within_s: float = 60) -> set[str]:
    """Returns the replicas that answer requests, as soon as there are `count`: proxies learn of a new one later."""
    names: set[str] = set()
    until = time.monotonic() + within_s
    while len(names) < count and time.monotonic() < until:
        names.add(server.ask("GET", "/", **KEY).headers["x-replica"])
    return names


@needs_ray_serve
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replicas_answer_as_one_process_does(tmp_path: Path) -> None:
    from stages.common.models.encoders.config import StudentConfig
    from stages.common.models.encoders.text_classifier import TextClassifier

    folder = str(tmp_path / "student")
    config = StudentConfig(asset=str(save_backbone(tmp_path / "backbone")), max_length=32)
    TextClassifier.from_encoder(config, ("bad", "good"), ("text",), 0).save(Path(folder))
    body, wrong = {"texts": TEXTS}, {"texts": [5]}
    with service(folder, "--api-key", "for clients") as plain:
        expected = plain.ask("POST", "/predict", body, **KEY).body["predictions"]
        error = plain.ask("POST", "/predict", wrong, **KEY).body
        about = plain.ask("GET", "/", **KEY).body
    with service(folder, "--api-key", "for clients", *ON_RAY) as replicas:
        assert len(names_of_replicas(replicas, 2)) == 2
        for _ in range(8):
            answers = replicas.ask("POST", "/predict", body, **KEY).body["predictions"]
            assert [item["label"] for item in answers] == [item["label"] for item in expected]
            for answer, other in zip(answers, expected, strict=True):
                assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        rejected = replicas.ask("POST", "/predict", wrong, **KEY)
        assert (rejected.status, rejected.body) == (422, error)
        assert replicas.ask("POST", "/predict", body).status == 401
        assert replicas.ask("GET", "/", **KEY).body == about
        assert replicas.ask("GET", "/health").status == 200
        assert "clozeline_texts_total" in replicas.ask("GET", "/metrics", **KEY).body
        assert replicas.stop() == 0
    assert "stopped" in replicas.printed[-1]


@needs_ray_serve
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stopped_while_its_replicas_load_it_ends_well(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with service(loading_replicas.__file__, str(started), wait=False) as replicas:
        until = time.monotonic() + 120
        while not started.exists():
            assert time.monotonic() < until, replicas.printed
            time.sleep(0.1)
        assert replicas.stop() == 0
    assert "stopped" in replicas.printed[-1]


@needs_ray_serve
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replicas_follow_changes_of_the_tasks(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone")
    films, news = save_prompts(backbone, tmp_path, {"films": 1, "news": 2})
    keys = ("--api-key", "for clients", "--admin-key", "for admins", "--tasks", str(tmp_path / "tasks.json"))
    row = {"inputs": [{"task": "news", "text": TEXTS[0]}]}
    with service(str(films), *keys, *ON_RAY) as replicas:
        assert replicas.ask("POST", "/predict", row, **KEY).status == 422
        added = replicas.ask("PUT", "/v1/tasks/news", {"folder": str(news)}, **ADMIN_KEY)
        assert added.status == 200, added
        until = time.monotonic() + 60
        answered: set[str] = set()
        while len(answered) < 2:
            response = replicas.ask("POST", "/predict", row, **KEY)
            if response.status == 200:
                answered.add(response.headers["x-replica"])
            assert time.monotonic() < until, answered


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"min_replicas": 3}, "3 replicas need 3 CPUs, and the cluster has 2"),
        ({"min_replicas": 1, "num_gpus": 1}, "1 replicas need 1 GPUs"),
    ],
)
def test_replicas_that_do_not_fit_are_an_error(plan: dict[str, float], words: str) -> None:
    settings = {"max_replicas": 4, "target_requests": 1, "max_requests": 1, **plan}
    replicas = ReplicaPlan(**settings)  # type: ignore[arg-type]
    capacity = Capacity(cpus=2, gpus=0, node_cpus=2, node_gpus=0)
    with pytest.raises(SessionError, match=words):
        replicas.check(capacity)
    replicas.check(capacity.with_addable(Machine(cpus=8, gpus=1)))
