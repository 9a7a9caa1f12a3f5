"""Registers a model of a few bytes."""

from __future__ import annotations

from pathlib import Path

from cluster.tracking.model_registry import Candidate, PyfuncSpec, register
from cluster.tracking.tracker import Tracker


def offer(tracker: Tracker, toys: Path) -> tuple[str, bool]:
    """Registers a model that is a number in a file. Returns the version and whether it is the champion."""
    for name in ("toy_models/__init__.py", "model/value.txt"):
        (toys / name).parent.mkdir(parents=True, exist_ok=True)
        (toys / name).write_text("def _load_pyfunc(path): return object()\n")
    candidate = Candidate(
        name="films.student", step="distill/0", fingerprint="f" * 8, run_id=tracker.parent.run_id,
        folder=lambda: toys / "model", example={"text": "x"}, accuracy=0.5, test_digest="d",
    )  # fmt: skip
    loader = PyfuncSpec(module="toy_models", code=[toys / "toy_models"], requirements=["pandas"])
    found = register(tracker.client, candidate, loader)
    return found.number, found.is_champion
