"""Steps with several workers: Ray Train, gloo, FSDP2 of torch and ZeRO-3 of DeepSpeed on CPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cluster.run.capacity import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.data.config import Source
from stages.common.data.step_outputs import read_logits
from stages.common.engine import ENGINE
from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.splits.config import DataConfig, SplitsConfig
from tests.support import distributed_steps
from tests.support.small_models import TOKENIZERS, backbone_config, film_examples, film_task, small_model
from tests.support.steps import function_name

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRAINING = TrainingConfig(learning_rate=0.02, batch_size=4, steps=6, weight_decay=0.0)
METHODS = {
    "bert": PromptConfig(num_virtual_tokens=3),
    "llama": PromptConfig(num_virtual_tokens=3, lora=LoraConfig(rank=2, targets=("q_proj", "v_proj"))),
    "gpt2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=3, head="linear"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a small model with random weights; `data`: labeled examples, whose number no batch size divides."""
    root = tmp_path_factory.mktemp("models")
    for name in METHODS:
        tokenizer = TOKENIZERS[name]()
        torch.manual_seed(7)
        small_model(name, len(tokenizer), tokenizer).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name, examples in (("train", film_examples(10)), ("test", film_examples(13, start=200))):
        rows = [{"text": item.fields["text"], "label": item.label} for item in examples]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: root / name for name in METHODS} | {"data": root}


def tuning(folders: dict[str, Path], family: str, resources: Resources, **settings: Any) -> Step:
    """Returns the step that tunes a prompt, and its upstream step with the data."""
    task = film_task(family)
    sources = {
        name: Source(asset=str(folders["data"] / f"{name}.jsonl"), fields={"text": "text"}, label="label")
        for name in ("train", "test")
    }
    data = SplitsConfig(data=DataConfig(**sources, unlabeled_size=0), labels=task.labels, fields=("text",), seed=1)
    config = distributed_steps.Config(
        task=task.only("review"),
        pattern="review",
        backbone=backbone_config(folders[family]),
        **{"prompt": METHODS[family], "training": TRAINING, "seed": 3} | settings,
    )
    data_step = Step(name="data/films", run="stages.splits.stage:run", config=data, resources=Resources(cpus=0.5))
    return Step(
        name="prompt",
        run=function_name(distributed_steps.run),
        config=config,
        inputs={"data": data_step},
        resources=resources,
    )


def run(step: Step, store: Store) -> Path:
    """Runs a step. Returns the folder of its files."""
    result = attempt(step, store)
    assert result.ok, result.errors
    return store.files(step.name, result.steps[step.name].fingerprint)


def attempt(step: Step, store: Store) -> RunResult:
    return execute([step], store, RunOptions(engine=ENGINE, poll_s=0.05, backoff_s=0.1))


def distributed(strategy: Any, workers: int, cpus: float = 1) -> Resources:
    return Resources(cpus=cpus, workers=workers, strategy=strategy)


@pytest.mark.parametrize(
    ("family", "strategy"),
    [("bert", "ddp"), ("llama", "fsdp"), ("llama", "zero2"), ("llama", "zero3"), ("gpt2", "zero3_offload")],
)
def test_two_workers_give_the_result_of_one(
    family: str, strategy: str, folders: dict[str, Path], ray_session: Capacity, tmp_path: Path
) -> None:
    # The next micro-batch must not add sums again.
    training = TRAINING.model_copy(update={"micro_batch_size": 1}) if strategy == "zero2" else TRAINING
    single = run(tuning(folders, family, Resources(), training=training), open_store(tmp_path / "single"))
    both = run(tuning(folders, family, distributed(strategy, 2), training=training), open_store(tmp_path / "both"))
    weights = sorted(path.relative_to(single) for path in single.rglob("*.safetensors"))
    assert len(weights) == (1 if family == "bert" else 2)
    for path in weights:
        one, other = load_file(single / path), load_file(both / path)
        for name, values in one.items():
            assert torch.allclose(values, other[name], atol=2e-5), path
    labels = film_task(family).labels
    assert np.allclose(
        read_logits(single / "test_logits.jsonl", labels).logits,
        read_logits(both / "test_logits.jsonl", labels).logits,
        atol=1e-4,
    )
    uids = [read_logits(folder / "test_logits.jsonl", labels).uids for folder in (single, both)]
    assert uids[0] == uids[1]
    counts = json.loads((both / "counts.json").read_text())
    trained = sum(values.numel() for path in weights for values in load_file(both / path).values())
    if strategy == "zero2":
        assert sum(counts["optimizer_state"]) == trained, "each number is kept once"
        assert max(counts["optimizer_state"]) < 0.6 * trained
    else:
        assert min(counts["optimizer_state"]) >= trained
    num_parts = 1 if strategy in ("ddp", "zero2") else 2
    # fsdp: the last norm is complete, and of an odd number of words one worker has one more, with embedding and head
    less, more = {"fsdp": (16, 48), "zero3": (0, 200), "zero3_offload": (0, 200)}.get(strategy, (0, 0))
    for kept in counts["kept"]:
        assert counts["total"] / num_parts - less <= kept <= counts["total"] / num_parts + more


@pytest.mark.parametrize(("family", "strategy"), [("bert", "zero3"), ("llama", "zero2")])
def test_checkpoint_fits_any_number_of_workers(
    family: str, strategy: Any, folders: dict[str, Path], ray_session: Capacity, tmp_path: Path
) -> None:
    """One of two workers is killed in the third optimizer step, then a single worker two steps later; three finish."""
    single = run(tuning(folders, family, Resources()), open_store(tmp_path / "single"))
    fault, store = tmp_path / "fault", open_store(tmp_path / "store")
    first = Resources(cpus=0.5, workers=2, strategy=strategy, max_attempts=1)
    second = Resources(cpus=0.5, workers=1, strategy=strategy, max_attempts=1)
    third = Resources(cpus=0.5, workers=3, strategy=strategy)
    for resources, killed_rank, at in ((first, 1, 3), (second, 0, 2)):
        fault.touch()
        failed = attempt(tuning(folders, family, resources, fault=str(fault), killed_rank=killed_rank, at=at), store)
        assert failed.failed == ("prompt",)
        assert "workers were lost" in str(failed.errors["prompt"])
        assert failed.errors["prompt"].transient
    last = run(tuning(folders, family, third, fault=str(fault)), store)
    assert json.loads((last / "counts.json").read_text())["num_steps"] in (2, 3), (
        "the checkpoint had three or four of six optimizer steps"
    )
    one = load_file(single / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.allclose(one, load_file(last / "prompt" / "adapter_model.safetensors")["prompt_embeddings"], atol=2e-5)


def test_hanging_worker_times_out_and_all_workers_dump_their_stacks(
    folders: dict[str, Path], ray_session: Capacity, tmp_path: Path
) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    resources = Resources(workers=2, strategy="ddp", max_attempts=1, timeout_s=15)
    step = tuning(folders, "bert", resources, fault=str(fault), hangs=True)
    error = attempt(step, open_store(tmp_path / "store")).errors["prompt"]
    assert error.transient
    message = str(error)
    assert "worker 0 hangs at" in message and "in all_reduce" in message
    assert (
        "worker 1 hangs at" in message
        and "distributed_steps.py" in message.split("worker 1 hangs at")[1].splitlines()[1]
    )


def test_error_of_a_stage_on_a_worker_is_reported_unchanged(
    folders: dict[str, Path], ray_session: Capacity, tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 1e38})
    failed = attempt(tuning(folders, "bert", distributed("ddp", 2), training=training), open_store(tmp_path / "store"))
    error = failed.errors["prompt"]
    assert "Lower learning_rate" in str(error)
    assert not error.transient
    assert Path(error.log).exists()


def test_step_with_more_workers_than_the_cluster_has_cpus_fails(
    folders: dict[str, Path], ray_session: Capacity, tmp_path: Path
) -> None:
    failed = attempt(tuning(folders, "bert", distributed("zero3", 3)), open_store(tmp_path / "store"))
    assert "3 workers with 1 CPUs each, but the cluster has 2 in total" in failed.errors["prompt"].error


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("pet.workers=2",), "pet"),
        (("pet.strategy=zero3", "pet.tune=full"), "pet"),
        (("distill.strategy=zero3",), "distill"),
        (("prompts.strategy=ddp", "prompts.workers=2", "prompts.batched_training=true"), "prompts"),
    ],
)
def test_recipe_rejects_impossible_strategies(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    assert caught.value.key.startswith(key)
