"""Stages that wait at a chosen moment until their worker is killed, and a graph of them for a Ray cluster."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.steps.step import Resources, Step
from stages.common.data.config import Source
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.pet import stage as pattern_training
from stages.pet.config import PetConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.config import SoftLabelsConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.steps import function_name

LOOP = TrainingConfig(learning_rate=0.02, batch_size=4, steps=6, weight_decay=0.0)
PROMPT = PromptConfig(num_virtual_tokens=3)
FAULTS = "CLOZELINE_TEST_FAULTS"
"""Environment variable with a folder. A file there, named like a step, contains the moment and the worker."""


@dataclass(slots=True)
class WaitingRecorder:
    """A recorder that waits at the moment and in the worker that a file names, until the worker is killed."""

    recorder: Any
    rank: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recorder, name)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        self.recorder.log_metric(name, value, step)
        self._wait_at(f"{name} {step}")

    def log_table(self, name: str, rows: Any) -> None:
        self.recorder.log_table(name, rows)
        self._wait_at(f"table {name}")

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        self.recorder.log_progress(done, total, **info)
        self._wait_at(str(info.get("phase")))

    def _wait_at(self, moment: str) -> None:
        import ray

        path = Path(os.environ[FAULTS]) / self.recorder.step.replace("/", "-")
        if path.exists() and path.read_text() == f"{moment}, worker {self.rank}":
            path.unlink()
            waiting = path.with_suffix(".waiting")
            waiting.write_text(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}")
            while waiting.exists():
                time.sleep(0.05)


def submodel(
    config: PetConfig, inputs: pattern_training.Inputs, out: Path, recorder: Any, engine: Any
) -> pattern_training.Result:
    """Trains a sub-model, which labels the unlabeled data."""
    return pattern_training.run(config, inputs, out, WaitingRecorder(recorder, engine.rank), engine)


def ensemble(
    config: SoftLabelsConfig, inputs: soft_labels.Inputs, out: Path, recorder: Any, engine: Any
) -> soft_labels.Result:
    """Averages the sub-models."""
    return soft_labels.run(config, inputs, out, WaitingRecorder(recorder, engine.rank), engine)


def prompt(
    config: PromptTuningConfig, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any
) -> prompt_tuning.Result:
    """Tunes a soft prompt. Writes the number of workers of each attempt to the folder of faults."""
    if engine.rank == 0:
        with (Path(os.environ[FAULTS]) / f"{recorder.step}.workers").open("a") as file:
            file.write(f"{engine.world_size} ")
    return prompt_tuning.run(config, inputs, out, WaitingRecorder(recorder, engine.rank), engine)


def graph(folder: Path) -> list[Step]:
    """Returns two sub-models, their ensemble, and prompts on two (zero3, ddp) and on up to three workers."""
    task = film_task("bert")
    sources = {
        name: Source(asset=str(folder / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    unlabeled = Source(asset=str(folder / "unlabeled.jsonl"), fields={"text": "text"})
    data_config = DataConfig(**sources, unlabeled=unlabeled, unlabeled_size=12)
    config = SplitsConfig(data=data_config, labels=task.labels, fields=("text",), seed=1)
    data = Step(name="data", run="stages.splits.stage:run", config=config, resources=Resources(cpus=0.5))
    common: dict[str, Any] = {"pattern": "review", "backbone": backbone_config(folder / "bert"), "prompt": PROMPT}
    members = tuple(
        Step(
            name=f"pet/{name}",
            run=function_name(submodel),
            config=PetConfig(task=task.only("review"), tune="prompt", training=LOOP, seed=seed, **common),
            inputs={"data": data},
        )
        for seed, name in enumerate(("trained", "labeling"))
    )
    ensemble_config = SoftLabelsConfig(
        labels=task.labels, members=("trained", "labeling"), groups=("pet", "pet"), have_priors=(True, True)
    )
    soft_label_step = Step(
        name="soft_labels",
        run=function_name(ensemble),
        config=ensemble_config,
        inputs={"data": data, "members": members},
    )
    tuning = PromptTuningConfig(task=task.only("review"), training=LOOP, seed=3, **common)
    strategies = {
        "partitioned": Resources(workers=2, strategy="zero3"),
        "preempted": Resources(workers=2, strategy="ddp"),
        "elastic": Resources(workers=(1, 3), strategy="ddp"),
    }
    prompts = [
        Step(name=name, run=function_name(prompt), config=tuning, inputs={"data": data}, resources=resources)
        for name, resources in strategies.items()
    ]
    return [soft_label_step, *prompts]


def write_files(folder: Path) -> None:
    """Writes the small model and the examples that the graph reads."""
    import torch

    from tests.support.small_models import TOKENIZERS, film_examples, small_model

    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    small_model("bert", len(tokenizer), tokenizer).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    for name, examples in (
        ("train", film_examples(10)),
        ("test", film_examples(13, 200)),
        ("unlabeled", film_examples(12, 99)),
    ):
        rows = [{"text": item.fields["text"], "label": item.label} for item in examples]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
