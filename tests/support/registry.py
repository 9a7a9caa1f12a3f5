"""Registers a model of a few bytes."""

from __future__ import annotations

from pathlib import Path

from cluster.tracking.model_registry import Candidate, PyfuncSpec, register
from cluster.tracking.tracker import Tracker


def register_small_model(tracker: Tracker, folder: Path) -> tuple[str, bool]:
    """Registers a model whose files are written to `folder`. Returns its version, and if it is the champion."""
    for name in ("toy_models/__init__.py", "model/value.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("def _load_pyfunc(path): return object()\n")
    candidate = Candidate(
        name="films.student", step="distill/0", fingerprint="f" * 8, run_id=tracker.parent.run_id,
        folder=lambda: folder / "model", example={"text": "x"}, accuracy=0.5, test_digest="d",
    )  # fmt: skip
    spec = PyfuncSpec(module="toy_models", code=[folder / "toy_models"], requirements=["pandas"])
    version = register(tracker.client, candidate, spec)
    return version.number, version.is_champion
