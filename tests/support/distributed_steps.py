"""Prompt tuning on several workers, one of which can be killed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from stages.common.models.backbones.partitioned import is_sharded
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig


class Config(PromptTuningConfig, frozen=True):
    """While the file `fault` exists, worker `killed_rank` kills itself after optimizer step `at`, once; or it hangs."""

    fault: str = Field("", json_schema_extra={"identity": False})
    killed_rank: int = Field(1, json_schema_extra={"identity": False})
    at: int = Field(3, json_schema_extra={"identity": False})
    hangs: bool = Field(False, json_schema_extra={"identity": False})


@dataclass(slots=True)
class WatchedEngine:
    """An engine that counts optimizer steps and numbers, and carries out the fault."""

    engine: Any
    config: Config | None = None
    model: Any = None
    num_steps: int = 0
    num_states: int = 0
    """Numbers per kind of optimizer state that this worker keeps after its last step."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def load_frozen(self, load_model: Any, **settings: Any) -> Any:
        self.model = self.engine.load_frozen(load_model, **settings)
        return self.model

    def load_trained(self, load_model: Any, **settings: Any) -> Any:
        self.model = self.engine.load_trained(load_model, **settings)
        return self.model

    def optimizer_step(self, optimizer: Any) -> None:
        self.engine.optimizer_step(optimizer)
        self.num_steps += 1
        self.num_states = sum(item["exp_avg"].numel() for item in optimizer.state.values())
        if self.config is None or not self.config.fault:
            return
        fault = Path(self.config.fault)
        if self.num_steps == self.config.at and fault.exists():
            self.engine.all_reduce_sum(torch.zeros(1))  # wait until all workers are at this step
            if self.engine.rank == self.config.killed_rank:
                fault.unlink()
                while self.config.hangs:
                    time.sleep(1)
                os.kill(os.getpid(), signal.SIGKILL)


def local_numbers(model: Any) -> tuple[int, int]:
    """Returns how many numbers of the weights this worker keeps, and their total number."""
    weights = list(model.parameters())
    kept = sum(_num_local(item) for item in weights)
    return kept, sum(getattr(item, "ds_numel", item.numel()) for item in weights)


def _num_local(weight: Any) -> int:
    """Returns how many numbers of a weight this worker keeps."""
    if is_sharded(weight):
        weight = weight.to_local()
    return int(weight.ds_tensor.numel() if hasattr(weight, "ds_tensor") else weight.numel())


def bytes_on_disk(model: Any) -> int:
    """Returns the bytes of the weights that this worker keeps in files."""
    swappers = {id(item): item for weight in model.parameters() if (item := getattr(weight, "nvme_swapper", None))}
    return sum(Path(path).stat().st_size for item in swappers.values() for path in item.id_to_path.values())


def run(config: Config, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any) -> prompt_tuning.Result:
    """Runs the stage and writes `counts.json`.

    It has the number of optimizer steps and, per worker, the numbers of the frozen model and of the optimizer state
    that it kept, and the bytes on a disk.
    """
    if config.fault:
        os.environ["CLOZELINE_CHECKPOINT_EVERY_S"] = "0"
    watched = WatchedEngine(engine, config)
    result = prompt_tuning.run(config, inputs, out, recorder, watched)
    # In one process the model may be cached from the step before.
    kept, total = local_numbers(watched.model) if watched.model is not None else (0, 0)
    on_disk = bytes_on_disk(watched.model) if watched.model is not None else 0
    counts = torch.zeros(3, engine.world_size, dtype=torch.float64)
    counts[:, engine.rank] = torch.tensor([kept, watched.num_states, on_disk])
    names = ("kept", "optimizer_state", "on_disk")
    summary = {
        "total": total,
        "num_steps": watched.num_steps,
        **dict(zip(names, engine.all_reduce_sum(counts).tolist(), strict=True)),
    }
    (out / "counts.json").write_text(json.dumps(summary))
    return result
