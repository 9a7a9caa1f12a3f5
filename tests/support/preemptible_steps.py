"""Stages whose machine may be taken away in the midst of them, and the graph of them that a cluster runs."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.steps.step import Resources, Step, function_name
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

LOOP = TrainingConfig(learning_rate=0.02, batch_size=4, steps=6, weight_decay=0.0)
PROMPT = PromptConfig(num_virtual_tokens=3)
DOOM = "DOOM"
"""Environment variable of the folder that holds, for a doomed step, the moment and the worker."""


@dataclass(slots=True)
class Doomed:
    """The recorder itself; in the worker and at the moment that a file names it waits for its end."""

    recorder: Any
    rank: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recorder, name)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        self.recorder.log_metric(name, value, step)
        self._meet(f"{name} {step}")

    def log_table(self, name: str, rows: Any) -> None:
        self.recorder.log_table(name, rows)
        self._meet(f"table {name}")

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        self.recorder.log_progress(done, total, **info)
        self._meet(str(info.get("phase")))

    def _meet(self, moment: str) -> None:
        import ray

        path = Path(os.environ[DOOM]) / self.recorder.step.replace("/", "-")
        if path.exists() and path.read_text() == f"{moment}, worker {self.rank}":
            path.unlink()
            met = path.with_suffix(".met")
            met.write_text(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}")
            while met.exists():
                time.sleep(0.05)


def submodel(
    config: PetConfig, inputs: pattern_training.Inputs, out: Path, recorder: Any, engine: Any
) -> pattern_training.Result:
    """A sub-model, which labels the pile."""
    return pattern_training.run(config, inputs, out, Doomed(recorder, engine.rank), engine)


def ensemble(
    config: SoftLabelsConfig, inputs: soft_labels.Inputs, out: Path, recorder: Any, engine: Any
) -> soft_labels.Result:
    """The ensemble."""
    return soft_labels.run(config, inputs, out, Doomed(recorder, engine.rank), engine)


def prompt(
    config: PromptTuningConfig, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any
) -> prompt_tuning.Result:
    """A soft prompt; says beside the graph how many workers each attempt had."""
    if engine.rank == 0:
        with (Path(os.environ[DOOM]) / f"{recorder.step}.workers").open("a") as file:
            file.write(f"{engine.world_size} ")
    return prompt_tuning.run(config, inputs, out, Doomed(recorder, engine.rank), engine)


def graph(folder: Path) -> list[Step]:
    """Two sub-models, their ensemble, and prompts on two (zero3, ddp) and on up to three workers."""
    task = film_task("bert")
    sources = {
        name: Source(asset=str(folder / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    pile = Source(asset=str(folder / "pile.jsonl"), fields={"text": "text"})
    drawn = DataConfig(**sources, unlabeled=pile, unlabeled_size=12)
    config = SplitsConfig(data=drawn, labels=task.labels, fields=("text",), seed=1)
    data = Step(name="data", run="stages.splits.stage:run", config=config, resources=Resources(cpus=0.5))
    common: dict[str, Any] = {"pattern": "review", "backbone": backbone_config(folder / "bert"), "prompt": PROMPT}
    members = tuple(
        Step(
            name=f"pet/{name}",
            run=function_name(submodel),
            config=PetConfig(task=task.only("review"), tune="prompt", training=LOOP, seed=seed, **common),
            inputs={"data": data},
        )
        for seed, name in enumerate(("trained", "labelling"))
    )
    mixing = SoftLabelsConfig(labels=task.labels, members=("trained", "labelling"), groups=("pet", "pet"))
    mixed = Step(
        name="soft_labels", run=function_name(ensemble), config=mixing, inputs={"data": data, "members": members}
    )
    tuning = PromptTuningConfig(task=task.only("review"), training=LOOP, seed=3, **common)
    shared = {
        "spread": Resources(workers=2, strategy="zero3"),
        "told": Resources(workers=2, strategy="ddp"),
        "elastic": Resources(workers=(1, 3), strategy="ddp"),
    }
    prompts = [
        Step(name=name, run=function_name(prompt), config=tuning, inputs={"data": data}, resources=resources)
        for name, resources in shared.items()
    ]
    return [mixed, *prompts]


def write_files(folder: Path) -> None:
    """The small model and the texts that the graph reads."""
    import torch

    from tests.support.small_models import TOKENIZERS, film_examples, small_model

    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    small_model("bert", len(tokenizer), tokenizer).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    for name, texts in (
        ("train", film_examples(10)),
        ("test", film_examples(13, 200)),
        ("pile", film_examples(12, 99)),
    ):
        rows = [{"text": item.fields["text"], "label": item.label} for item in texts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
