"""A fan-out, a step with two workers and a stream, for hosts that share no disk."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.steps.functions import resolve
from cluster.steps.step import Resources, Step, graph
from cluster.steps.task_spec import build_inputs, input_indices
from stages.common.data.config import Source
from stages.common.engine import InProcessEngine
from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.common.protocols import NullRecorder
from stages.common.training.config import TrainingConfig
from stages.pet import stage as pattern_training
from stages.pet.config import PetConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from stages.soft_labels.sharded.config import ShardedLabelsConfig, ShardsConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.steps import function_name

NUM_STEPS = 6
LOOP = TrainingConfig(learning_rate=0.02, batch_size=4, steps=NUM_STEPS, weight_decay=0.0)
NUM_MEMBERS = 3
WAITING = "waits for the end of its host"
"""Phase of a sub-model that waits."""


class SubmodelConfig(PetConfig, frozen=True):
    """A sub-model that waits in the middle of its training, if it trains on the host `waits_on`."""

    waits_on: str = Field("", json_schema_extra={"identity": False})


@dataclass(slots=True)
class WaitingRecorder:
    """A recorder that never returns from the middle of a training."""

    recorder: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recorder, name)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        self.recorder.log_metric(name, value, step)
        if (name, step) == ("train/loss", NUM_STEPS // 2):
            self.recorder.log_progress(step, NUM_STEPS, phase=WAITING)
            while True:
                time.sleep(1)


def submodel(
    config: SubmodelConfig, inputs: pattern_training.Inputs, out: Path, recorder: Any, engine: Any
) -> pattern_training.Result:
    """Trains a sub-model."""
    if config.waits_on == os.uname().nodename:
        recorder = WaitingRecorder(recorder)
    return pattern_training.run(config, inputs, out, recorder, engine)


def prompt(
    config: PromptTuningConfig, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any
) -> prompt_tuning.Result:
    """Tunes a soft prompt, and prints where."""
    sys.stdout.write(f"rank {engine.rank} of {engine.world_size} on {os.uname().nodename}\n")
    return prompt_tuning.run(config, inputs, out, recorder, engine)


def members(folder: Path, waits_on: str = "") -> tuple[Step, ...]:
    """Returns sub-models, which read one split of the data in a folder."""
    common: dict[str, Any] = {"pattern": "review", "backbone": backbone_config(folder / "bert")}
    return tuple(
        Step(
            name=f"pet/{seed}",
            run=function_name(submodel),
            config=SubmodelConfig(
                task=film_task("bert").only("review"), tune="lora", lora=LoraConfig(rank=2, targets=("query", "value")),
                training=LOOP, seed=seed, waits_on=waits_on, **common,
            ),
            inputs={"data": _data(folder)},
        )
        for seed in range(NUM_MEMBERS)
    )  # fmt: skip


def steps(folder: Path) -> tuple[Step, ...]:
    """Returns a prompt on two workers with a sharded model, and soft labels of shards by two workers."""
    task = film_task("bert")
    tuning = PromptTuningConfig(
        task=task.only("review"), pattern="review", backbone=backbone_config(folder / "bert"),
        prompt=PromptConfig(num_virtual_tokens=3), training=LOOP, seed=3,
    )  # fmt: skip
    partitioned = Step(
        name="prompt",
        run=function_name(prompt),
        config=tuning,
        inputs={"data": _data(folder)},
        resources=Resources(workers=2, strategy="fsdp"),
    )
    labels = ShardedLabelsConfig(
        labels=task.labels,
        groups=("pet",) * NUM_MEMBERS,
        have_priors=(True,) * NUM_MEMBERS,
        shards=ShardsConfig(source=Source(asset=str(folder / "shards")), batch_size=4),
    )
    shards = Step(
        name="shards",
        run="stages.soft_labels.sharded.stage:run",
        config=labels,
        inputs={"members": members(folder)},
        resources=Resources(workers=2, strategy="stream"),
    )
    return partitioned, shards


def _data(folder: Path) -> Step:
    sources = {
        name: Source(asset=str(folder / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    unlabeled = Source(asset=str(folder / "unlabeled.jsonl"), fields={"text": "text"})
    data = DataConfig(**sources, unlabeled=unlabeled, unlabeled_size=12)
    config = SplitsConfig(data=data, labels=film_task("bert").labels, fields=("text",), seed=1)
    return Step(name="data", run="stages.splits.stage:run", config=config)


def write_files(folder: Path) -> None:
    """Writes the small model and the examples that the steps read."""
    from tests.support import preemptible_steps
    from tests.support.small_models import film_examples, write_lines

    preemptible_steps.write_files(folder)
    (folder / "shards").mkdir()
    for number in range(3):
        texts = [{"text": item.fields["text"]} for item in film_examples(9, start=300 + 10 * number)]
        write_lines(folder / "shards" / f"part-{number}.jsonl", texts)


def run_here(leaves: tuple[Step, ...], root: Path) -> dict[str, Path]:
    """Runs steps in this process, one after another. Returns name -> the folder of its files."""
    folders: dict[str, Path] = {}
    for name, step in graph(leaves).items():
        function, upstream = resolve(step.run), tuple(dict.fromkeys(item.name for item in step.upstream()))
        inputs = build_inputs(function, name, input_indices(step, upstream), [folders[item] for item in upstream])
        folders[name] = root / name
        folders[name].mkdir(parents=True)
        function(step.config, inputs, folders[name], NullRecorder(), InProcessEngine())
    return folders
