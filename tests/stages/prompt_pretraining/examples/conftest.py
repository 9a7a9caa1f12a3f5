"""The fixture that both test modules of this folder use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus_shards import write_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The folder of a corpus in four shards."""
    return write_shards(tmp_path)
