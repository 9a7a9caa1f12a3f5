"""What all tests share: one real local Ray, started when a test first asks for it, and stores in temporary folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.session import Capacity, session
from cluster.store import Store

TOYS = Path(__file__).parent / "cluster"
MODELS = Path(__file__).parent / "stages"

for folder in (TOYS, MODELS):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Capacity]:
    """A local Ray with 2 CPUs, whose workers can import the toy steps."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(TOYS)
    try:
        with session(num_cpus=2) as capacity:
            yield capacity
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store")
