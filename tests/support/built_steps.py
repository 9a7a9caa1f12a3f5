"""The stage that builds examples from a corpus in shards, whose process may be told to die behind the first of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stages.prompt_pretraining.examples import stage as pretraining_examples
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from tests.support.sharded_steps import Watched


class Config(PretrainingExamplesConfig, frozen=True):
    """`fault`: a file; while it is there, the process kills itself when `at` rows are built, once."""

    fault: str = Field("", json_schema_extra={"identity": False})
    at: int = Field(0, json_schema_extra={"identity": False})


class Building(Watched):
    """Looks at the second pass alone."""

    def log_progress(self, done: int, total: int, **info: Any) -> None:
        if info["phase"] == "reading shards":
            self.recorder.log_progress(done, total, **info)
        else:
            Watched.log_progress(self, done, total, **info)


def run(
    config: Config, inputs: pretraining_examples.Inputs, out: Any, recorder: Any, engine: Any
) -> pretraining_examples.Result:
    return pretraining_examples.run(config, inputs, out, Building(recorder, config, engine.checkpoint_dir), engine)
