"""A prompt, LoRA, or all weights of a Llama of 68 million weights: estimated and measured memory of its workers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.parallel.memory import MemoryEstimate, estimate_memory
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step, Strategy
from cluster.store.location import open_store
from pipelines.preflight.memory import shape_of, workload_of
from stages.common.data.config import Source
from stages.common.engine import ENGINE
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.pet.config import PetConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support import distributed_steps, memory_steps
from tests.support.small_models import backbone_config, film_examples, film_task, llama_tokenizer, write_lines
from tests.support.steps import function_name

NUM_LAYERS, WIDTH, INNER_TIMES, NUM_HEADS = 16, 512, 4, 8
MAX_LENGTH, BATCH, NUM_STEPS = 64, 8, 2


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of each worker, by rank, and the estimate for each. `kept` and `total` are numbers of weights."""

    peaks: tuple[int, ...]
    before: tuple[int, ...]
    kept: tuple[int, ...]
    total: int
    seconds: float
    estimate: MemoryEstimate


def write_case(root: Path, num_layers: int = NUM_LAYERS, width: int = WIDTH) -> None:
    """Writes a model, and examples that fill its window, to a folder."""
    tokenizer = llama_tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=num_layers, num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS, intermediate_size=INNER_TIMES * width, max_position_embeddings=2 * MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "llama")
    tokenizer.save_pretrained(root / "llama")
    for name, examples in (("train", film_examples(2 * BATCH)), ("test", film_examples(BATCH, start=200))):
        rows = [{"text": " ".join([item.fields["text"]] * 8), "label": item.label} for item in examples]
        write_lines(root / f"{name}.jsonl", rows)


Tuned = Literal["prompt", "lora", "full"]
"""What a step trains: a prompt, LoRA on all linear layers, or all weights."""


def splits_config(root: Path) -> SplitsConfig:
    """Returns the config of the step with the data."""
    sources = {
        name: Source(asset=str(root / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    labels = film_task("llama").labels
    return SplitsConfig(data=DataConfig(**sources, unlabeled_size=0), labels=labels, fields=("text",), seed=1)


def tuning_step(root: Path, strategy: Strategy, workers: int, tuned: Tuned = "prompt") -> Step:
    """Returns a step that measures the memory of its workers, and its upstream step with the data."""
    shared: dict[str, Any] = {
        "task": film_task("llama").only("review"),
        "pattern": "review",
        "backbone": backbone_config(root / "llama", MAX_LENGTH),
        "training": TrainingConfig(learning_rate=0.01, batch_size=BATCH, steps=NUM_STEPS),
        "seed": 3,
    }
    config: BaseModel
    if tuned == "prompt":
        config = distributed_steps.Config(prompt=PromptConfig(num_virtual_tokens=4), **shared)
    else:
        config = PetConfig(tune=tuned, label_unlabeled=False, **shared)
    run = memory_steps.run if tuned == "prompt" else memory_steps.run_submodel
    data = Step(
        name="data/films", run="stages.splits.stage:run", config=splits_config(root), resources=Resources(cpus=0.5)
    )
    resources = Resources(cpus=0.5, workers=workers, strategy=strategy, max_attempts=1)
    return Step(name="tuned", run=function_name(run), config=config, inputs={"data": data}, resources=resources)


def measure(root: Path, strategy: Strategy, workers: int, tuned: Tuned = "prompt") -> Measured:
    """Runs the step in its own store. Needs the files of `write_case` and a session of Ray."""
    step = tuning_step(root, strategy, workers, tuned)
    store = open_store(root / f"{tuned}-{strategy}-{workers}")
    result = execute([step], store, RunOptions(engine=ENGINE, poll_s=0.05, backoff_s=0.1))
    assert result.ok, result.errors
    return read_measured(root, step, store.files("tuned", result.steps["tuned"].fingerprint))


def read_measured(root: Path, step: Step, files: Path) -> Measured:
    """Returns what the workers of a step measured, and the estimate."""
    measured = json.loads((files / "memory.json").read_text())
    rows = measured["workers"]
    shape, resources = shape_of(root / "llama"), step.resources
    return Measured(
        peaks=tuple(row["peak"] for row in rows),
        before=tuple(row["before"] for row in rows),
        kept=tuple(row["kept"] for row in rows),
        total=measured["total"],
        seconds=measured["seconds"],
        estimate=estimate_memory(
            shape, workload_of(step, shape), resources.strategy, resources.min_workers, on_gpu=False
        ).machine,
    )
