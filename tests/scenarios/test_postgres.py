"""Two runs at a time record to MLflow with a Postgres database, as `cluster/deploy/compose.yaml` starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.conftest import Clozeline
from tests.support.mlflow_server import MlflowServer, free_port

PASSWORD = "p@ss/word"
STEPS = "zero_shot/*"


def find_programs() -> Path | None:
    """Returns the folder with the programs of the latest Postgres of this machine. Debian has them not in PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else (folders[-1] if folders else None)


PROGRAMS = find_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed: apt install postgresql"),
]


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database on a server that other machines cannot reach."""
    import psycopg2

    assert PROGRAMS is not None
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    user = "postgres" if os.geteuid() == 0 else None  # Postgres refuses to run as root
    password = folder / "password"
    password.write_text(PASSWORD)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user:
        for path in (folder, password, data):
            shutil.chown(path, user)
        for parent in folder.parents[:3]:  # folders of pytest are those of its user only
            parent.chmod(parent.stat().st_mode | 0o011)
    setup = ["--pgdata", str(data), "--username", "mlflow", "--auth", "scram-sha-256", "--pwfile", str(password)]
    subprocess.run([PROGRAMS / "initdb", *setup], check=True, capture_output=True, user=user, cwd=folder)
    settings = ["-k", str(folder), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    with subprocess.Popen(
        [PROGRAMS / "postgres", "-D", str(data), *settings],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder,
    ) as server:  # fmt: skip
        try:
            wait = [PROGRAMS / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
            while subprocess.run(wait, check=False, capture_output=True).returncode:
                assert server.poll() is None, "Postgres ended"
            connection = psycopg2.connect(
                host="127.0.0.1", port=port, user="mlflow", password=PASSWORD, dbname="postgres"
            )
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("create database mlflow")
            connection.close()
            yield f"postgresql+psycopg2://mlflow:p%40ss%2Fword@127.0.0.1:{port}/mlflow"
        finally:
            server.terminate()


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path, database)
    server.start()
    yield server
    server.kill()


def test_two_runs_at_a_time_record_each_step_once(
    server: MlflowServer, clozeline: Clozeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    words = ("run", "smoke", "--store", str(tmp_path / "store"), "--until", STEPS)
    with ThreadPoolExecutor() as threads:
        finished = [item.result() for item in [threads.submit(clozeline, *words, timeout=300) for _ in range(2)]]
    for process in finished:
        assert process.returncode == 0, process.stdout + process.stderr
        assert PASSWORD not in process.stdout + process.stderr
    client = MlflowClient(server.url)
    (experiment,) = [item for item in client.search_experiments() if item.name == "smoke"]
    recorded = client.search_runs([experiment.experiment_id])
    steps = [run for run in recorded if run.info.run_name.startswith("zero_shot/")]
    assert Counter(run.info.run_name for run in steps) == {
        "zero_shot/question": 1, "zero_shot/review": 1, "zero_shot/verdict": 1,
    }  # fmt: skip
    for run in steps:
        assert run.info.status == "FINISHED"
        assert 0 <= run.data.metrics["test/accuracy"] <= 1
        assert client.list_artifacts(run.info.run_id)
