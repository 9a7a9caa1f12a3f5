"""The stage that labels shards. Its process can be killed after some examples."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.soft_labels.sharded import stage as shard_labels
from stages.soft_labels.sharded.config import ShardedLabelsConfig


class Config(ShardedLabelsConfig, frozen=True):
    """While the file `fault` exists, the process kills itself once `at` examples are labeled."""

    fault: str = Field("", json_schema_extra={"identity": False})
    at: int = Field(0, json_schema_extra={"identity": False})


@dataclass(slots=True)
class WatchedRecorder:
    """A recorder that carries out the fault. Writes the finished shards to `<fault>.json`."""

    recorder: Any
    config: Any
    checkpoint_dir: Path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recorder, name)

    def log_progress(self, done: int, total: int, **info: Any) -> None:
        self.recorder.log_progress(done, total, **info)
        fault = Path(self.config.fault)
        if done >= self.config.at and fault.is_file():
            fault.unlink()
            fault.with_suffix(".json").write_text(json.dumps(files_of(self.checkpoint_dir / "shards")))
            os.kill(os.getpid(), signal.SIGKILL)


def files_of(folder: Path) -> dict[str, list[int]]:
    """Returns name of each labeled shard -> its modification time and its inode."""
    return {path.name: [path.stat().st_mtime_ns, path.stat().st_ino] for path in folder.glob("*.parquet")}


def run(config: Config, inputs: shard_labels.Inputs, out: Path, recorder: Any, engine: Any) -> shard_labels.Result:
    return shard_labels.run(config, inputs, out, WatchedRecorder(recorder, config, engine.checkpoint_dir), engine)
