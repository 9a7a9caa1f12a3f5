"""Folders for weights on a disk: who removes them, and where they can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import OffloadError
from cluster.parallel import nvme_offload


def test_offload_folder_removes_folders_of_dead_processes_only(tmp_path: Path) -> None:
    alive = nvme_offload.OffloadFolder(tmp_path, "a")
    dead = tmp_path / f"{nvme_offload.PREFIX}dead"
    (dead / "zero_stage_3").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    other = nvme_offload.OffloadFolder(tmp_path, "b")
    assert {item.name for item in tmp_path.iterdir()} == {alive.path.name, other.path.name, "other"}
    (alive.path / "weights").write_text("0")
    alive.close()
    other.close()
    assert [item.name for item in tmp_path.iterdir()] == ["other"]


def test_offload_folder_needs_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OffloadError, match="is not a folder"):
        nvme_offload.OffloadFolder(tmp_path / "file", "a")
