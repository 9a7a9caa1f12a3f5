"""Frozen weights on a disk, for real: two workers of ZeRO-3 over a model whose largest weights are swapped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.parallel import nvme_offload
from cluster.parallel.memory import estimate_memory
from cluster.run.ray_session import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step, function_name
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.preflight.memory import workload_of
from pipelines.preflight.model_shapes import shape_of
from stages.common.data.config import Source
from stages.common.data.step_outputs import read_logits
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.meta_models import largest_weight
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support import distributed_steps
from tests.support.paths import ROOT
from tests.support.small_models import backbone_config, film_examples, film_task, llama_tokenizer, write_lines

BUILD = "CLOZELINE_BUILD_OPS"
VOCABULARY, WIDTH = 8000, 320
LARGE = VOCABULARY * WIDTH
LOOP = TrainingConfig(learning_rate=0.02, batch_size=4, steps=4, weight_decay=0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty folder to swap to."""
    if not os.environ.get(BUILD):
        pytest.skip(f"DeepSpeed builds async_io first, which takes minutes: {BUILD}=1 asks for it")
    nvme_offload.check_aio_toolchain()
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two weights that are large enough, its embedding and its head, and texts."""
    root = tmp_path_factory.mktemp("model")
    tokenizer = llama_tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=2 * WIDTH, max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, bos_token_id=0,
        eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "llama")
    tokenizer.save_pretrained(root / "llama")
    for name, texts in (("train", film_examples(8)), ("test", film_examples(7, start=200))):
        write_lines(root / f"{name}.jsonl", [{"text": item.fields["text"], "label": item.label} for item in texts])
    return root


def tuning(folder: Path, offload_to: Path | None, fault: Path | None = None, loop: TrainingConfig = LOOP) -> Step:
    """The step that tunes a prompt with LoRA on two workers, whose frozen weights lie in memory or on a disk."""
    task = film_task("llama")
    sources = {
        name: Source(asset=str(folder / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    drawn = DataConfig(**sources, unlabeled_size=0)
    data = SplitsConfig(data=drawn, labels=task.labels, fields=("text",), seed=1)
    config = distributed_steps.Config(
        task=task.only("review"),
        pattern="review",
        backbone=backbone_config(folder / "llama"),
        prompt=PromptConfig(num_virtual_tokens=3, lora=LoraConfig(rank=2, targets=("q_proj", "v_proj"))),
        training=loop,
        seed=3,
        fault=str(fault or ""),
    )
    resources = Resources(
        workers=2, strategy="zero3_offload", max_attempts=1, nvme_path=str(offload_to) if offload_to else None
    )
    reads = Step(name="data/films", run="stages.splits.stage:run", config=data, resources=Resources(cpus=0.5))
    return Step(
        name="prompt",
        run=function_name(distributed_steps.run),
        config=config,
        inputs={"data": reads},
        resources=resources,
    )


def tried(step: Step, store: Store) -> RunResult:
    return execute([step], store, RunOptions(poll_s=0.05, backoff_s=0.1))


def done(step: Step, store: Store) -> Path:
    """Runs a step; returns the folder of its files."""
    outcome = tried(step, store)
    assert outcome.ok, outcome.errors
    return store.files(step.name, outcome.steps[step.name].fingerprint)


def test_two_workers_end_where_they_end_in_memory(
    folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path
) -> None:
    swapping = tuning(folder, disk)
    one = done(tuning(folder, None), open_store(tmp_path / "memory"))
    other = done(swapping, open_store(tmp_path / "swapped"))
    assert list(disk.iterdir()) == []
    prompts = [load_file(item / "prompt" / "adapter_model.safetensors")["prompt_embeddings"] for item in (one, other)]
    assert torch.equal(*prompts)
    labels = film_task("llama").labels
    logits = [read_logits(folder / "test_logits.jsonl", labels).logits for folder in (one, other)]
    assert (logits[0] == logits[1]).all()

    in_memory, on_disk = (json.loads((item / "about.json").read_text()) for item in (one, other))
    shape = shape_of(folder / "llama")
    planned = estimate_memory(shape, workload_of(swapping, shape), "zero3_offload", 2, on_gpu=False, on_disk=True)
    assert in_memory["on_disk"] == [0, 0]
    assert on_disk["on_disk"] == [planned.disk, planned.disk] == [2 * LARGE // 2 * 4] * 2
    assert largest_weight(folder / "llama") == LARGE
    for before, kept in zip(in_memory["kept"], on_disk["kept"], strict=True):
        assert kept <= before - 2 * LARGE // 2 + 10
        assert abs(kept * 4 - planned.machine.weights) < 1000, "parts are padded to equal lengths"


def test_workers_end_in_peace(folder: Path, disk: Path, tmp_path: Path) -> None:
    """Two models each, one behind the other: without Ray, which hides how a process ended."""
    script = ROOT / "tests/support/programs/offload_ranks.py"
    words = [str(folder / "llama"), str(disk), str(tmp_path / "group")]
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    told = [worker.communicate(timeout=200)[0] for worker in both]
    assert [worker.returncode for worker in both] == [0, 0], told
    assert all("True, folders while it ran: 4" in text for text in told), told
    assert list(disk.iterdir()) == []


def test_a_worker_without_the_folder_says_so(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    error = tried(tuning(folder, disk / "nowhere"), open_store(tmp_path / "store")).errors["prompt"]
    assert f"{disk / 'nowhere'}, where weights shall lie, is no folder on {os.uname().nodename}" in str(error)
    assert "mend offload_to" in str(error)
    assert not error.transient


def test_a_training_that_fails_leaves_nothing(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    loop = LOOP.model_copy(update={"learning_rate": 1e38})
    error = tried(tuning(folder, disk, loop=loop), open_store(tmp_path / "store")).errors["prompt"]
    assert "Lower learning_rate" in str(error)
    assert list(disk.iterdir()) == []


def test_a_killed_worker_leaves_nothing(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    failed = tried(tuning(folder, disk, fault), open_store(tmp_path / "store"))
    assert failed.failed == ("prompt",)
    assert not fault.exists(), "the worker was killed in its third step"
    assert list(disk.iterdir()) == []
