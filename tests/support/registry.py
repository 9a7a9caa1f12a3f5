"""Registers a model of a few bytes, and loads registered models as a user of MLflow does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.tracking.model_registry import Candidate, PyfuncSpec, register
from cluster.tracking.tracker import Tracker

_LOADING = """
import json, sys
import mlflow.pyfunc, pandas
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient
model = mlflow.pyfunc.load_model(sys.argv[1])
texts = json.loads(sys.argv[2])
served = TestClient(scoring_server.init(model)).post(  # the application of `mlflow models serve`
    "/invocations", json={"dataframe_records": [{"text": text} for text in texts]}
)
table = model.predict(pandas.DataFrame({"text": texts}))
rows = model.predict([{"text": text} for text in texts])
import pipelines
print(json.dumps({
    "table": table.to_dict("records"), "rows": rows.to_dict("records"), "code": pipelines.__file__,
    "served": served.json()["predictions"],
    "cluster": [name for name in sys.modules if name.split(".")[0] in ("cluster", "ray")],
}))
"""


def predict_registered(model: Path, texts: Sequence[str], cwd: Path) -> dict[str, Any]:
    """Loads a registered model in a process without network and checkout.

    Returns:
        Its predictions for a `table`, for `rows` and when it is `served`, the path of its `code`, and the modules of
        `cluster` and Ray that it imported.
    """
    offline = {
        **os.environ, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "PIP_NO_INDEX": "1", "PIP_INDEX_URL": "http://127.0.0.1:9", "PYTHONPATH": "",
    }  # fmt: skip
    loaded = subprocess.run(
        [sys.executable, "-c", _LOADING, str(model), json.dumps(texts)],
        cwd=cwd, env=offline, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    output: dict[str, Any] = json.loads(loaded.stdout.splitlines()[-1])
    assert output["served"] == output["table"]
    return output


def register_small_model(tracker: Tracker, folder: Path) -> tuple[str, bool]:
    """Registers a model whose files are written to `folder`. Returns its version, and if it is the champion."""
    for name in ("toy_models/__init__.py", "model/value.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("def _load_pyfunc(path): return object()\n")
    assert tracker.run_id is not None
    candidate = Candidate(
        name="films.student", step="distill/0", fingerprint="f" * 8, run_id=tracker.run_id,
        folder=lambda: folder / "model", example={"text": "x"}, accuracy=0.5, test_digest="d",
    )  # fmt: skip
    spec = PyfuncSpec(module="toy_models", code=[folder / "toy_models"], requirements=["pandas"])
    version = register(tracker.client, candidate, spec)
    return version.number, version.is_champion
