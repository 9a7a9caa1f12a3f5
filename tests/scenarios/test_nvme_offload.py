"""Frozen weights on a disk: two workers of ZeRO-3 and a model whose largest weights are offloaded."""

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
from cluster.run.capacity import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.preflight.memory import shape_of, workload_of
from stages.common.data.config import Source
from stages.common.data.step_outputs import read_logits
from stages.common.engine import ENGINE
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.meta_models import largest_weight
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support import distributed_steps
from tests.support.paths import ROOT
from tests.support.small_models import backbone_config, film_examples, film_task, llama_tokenizer, write_lines
from tests.support.steps import function_name

pytestmark = pytest.mark.slow

BUILD = "CLOZELINE_BUILD_OPS"
VOCABULARY, WIDTH = 8000, 320
LARGE = VOCABULARY * WIDTH
TRAINING = TrainingConfig(learning_rate=0.02, batch_size=4, steps=4, weight_decay=0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty folder for the weights."""
    if not os.environ.get(BUILD):
        pytest.skip(f"DeepSpeed builds async_io first, which takes minutes. Set {BUILD}=1 to run this test.")
    nvme_offload.check_aio_toolchain()
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embedding and head are large enough for a disk, and examples."""
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
    for name, examples in (("train", film_examples(8)), ("test", film_examples(7, start=200))):
        write_lines(root / f"{name}.jsonl", [{"text": item.fields["text"], "label": item.label} for item in examples])
    return root


def tuning(
    folder: Path, nvme_path: Path | None, fault: Path | None = None, training: TrainingConfig = TRAINING
) -> Step:
    """Returns a step that tunes a prompt with LoRA on two workers, with frozen weights in memory or on a disk."""
    task = film_task("llama")
    sources = {
        name: Source(asset=str(folder / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    data_config = DataConfig(**sources, unlabeled_size=0)
    data = SplitsConfig(data=data_config, labels=task.labels, fields=("text",), seed=1)
    config = distributed_steps.Config(
        task=task.only("review"),
        pattern="review",
        backbone=backbone_config(folder / "llama"),
        prompt=PromptConfig(num_virtual_tokens=3, lora=LoraConfig(rank=2, targets=("q_proj", "v_proj"))),
        training=training,
        seed=3,
        fault=str(fault or ""),
    )
    resources = Resources(
        workers=2, strategy="zero3_offload", max_attempts=1, nvme_path=str(nvme_path) if nvme_path else None
    )
    data_step = Step(name="data/films", run="stages.splits.stage:run", config=data, resources=Resources(cpus=0.5))
    return Step(
        name="prompt",
        run=function_name(distributed_steps.run),
        config=config,
        inputs={"data": data_step},
        resources=resources,
    )


def attempt(step: Step, store: Store) -> RunResult:
    return execute([step], store, RunOptions(engine=ENGINE, poll_s=0.05, backoff_s=0.1))


def run(step: Step, store: Store) -> Path:
    """Runs a step. Returns the folder of its files."""
    result = attempt(step, store)
    assert result.ok, result.errors
    return store.files(step.name, result.steps[step.name].fingerprint)


def test_offloaded_weights_give_the_same_result(
    folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path
) -> None:
    offloading = tuning(folder, disk)
    one = run(tuning(folder, None), open_store(tmp_path / "memory"))
    other = run(offloading, open_store(tmp_path / "offloaded"))
    assert list(disk.iterdir()) == []
    prompts = [load_file(item / "prompt" / "adapter_model.safetensors")["prompt_embeddings"] for item in (one, other)]
    assert torch.equal(*prompts)
    labels = film_task("llama").labels
    logits = [read_logits(folder / "test_logits.jsonl", labels).logits for folder in (one, other)]
    assert (logits[0] == logits[1]).all()

    in_memory, on_disk = (json.loads((item / "counts.json").read_text()) for item in (one, other))
    shape = shape_of(folder / "llama")
    estimate = estimate_memory(shape, workload_of(offloading, shape), "zero3_offload", 2, on_gpu=False, on_disk=True)
    assert in_memory["on_disk"] == [0, 0]
    assert on_disk["on_disk"] == [estimate.disk, estimate.disk] == [2 * LARGE // 2 * 4] * 2
    assert largest_weight(folder / "llama") == LARGE
    for before, kept in zip(in_memory["kept"], on_disk["kept"], strict=True):
        assert kept <= before - 2 * LARGE // 2 + 10
        assert abs(kept * 4 - estimate.machine.weights) < 1000, "parts are padded to equal lengths"


def test_workers_exit_without_errors(folder: Path, disk: Path, tmp_path: Path) -> None:
    """Each loads two models. Ray would hide the exit codes."""
    script = ROOT / "tests/support/programs/offload_ranks.py"
    words = [str(folder / "llama"), str(disk), str(tmp_path / "group")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=200)[0] for worker in processes]
    assert [worker.returncode for worker in processes] == [0, 0], outputs
    assert all("True, 4 folders" in text for text in outputs), outputs
    assert list(disk.iterdir()) == []


def test_missing_folder_is_reported(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    error = attempt(tuning(folder, disk / "nowhere"), open_store(tmp_path / "store")).errors["prompt"]
    assert f"nvme_path {disk / 'nowhere'} is not a folder on {os.uname().nodename}" in str(error)
    assert "correct nvme_path" in str(error)
    assert not error.transient


def test_failed_training_leaves_no_files(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 1e38})
    error = attempt(tuning(folder, disk, training=training), open_store(tmp_path / "store")).errors["prompt"]
    assert "Lower learning_rate" in str(error)
    assert list(disk.iterdir()) == []


def test_killed_worker_leaves_no_files(folder: Path, disk: Path, ray_session: Capacity, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    failed = attempt(tuning(folder, disk, fault), open_store(tmp_path / "store"))
    assert failed.failed == ("prompt",)
    assert not fault.exists(), "the worker was killed in its third optimizer step"
    assert list(disk.iterdir()) == []
