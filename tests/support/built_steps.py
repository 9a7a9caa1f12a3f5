"""The stage that builds examples from a corpus in shards. Its process can be killed after some rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stages.prompt_pretraining.examples import stage as pretraining_examples
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from tests.support.sharded_steps import WatchedRecorder


class Config(PretrainingExamplesConfig, frozen=True):
    """While the file `fault` exists, the process kills itself once `at` rows are built."""

    fault: str = Field("", json_schema_extra={"identity": False})
    at: int = Field(0, json_schema_extra={"identity": False})


class BuildingRecorder(WatchedRecorder):
    """Carries out the fault in the second pass only."""

    def log_progress(self, done: int, total: int, **info: Any) -> None:
        if info["phase"] == "reading shards":
            self.recorder.log_progress(done, total, **info)
        else:
            WatchedRecorder.log_progress(self, done, total, **info)


def run(
    config: Config, inputs: pretraining_examples.Inputs, out: Any, recorder: Any, engine: Any
) -> pretraining_examples.Result:
    return pretraining_examples.run(
        config, inputs, out, BuildingRecorder(recorder, config, engine.checkpoint_dir), engine
    )
