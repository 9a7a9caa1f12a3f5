"""Memory of the steps of a recipe: what `plan` shows, and which runs are rejected."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, T5Config

from cluster.parallel.memory import GIB, MemoryBudget
from cluster.run.result import RunOptions
from cluster.steps.plan import plan
from cluster.steps.step import Resources
from pipelines.dag.fewshot import build_steps
from pipelines.preflight import memory
from pipelines.preflight.memory import cached_shape, shape_of
from pipelines.run.request import RunRequest, check_machine, load_request
from stages.common.engine import ENGINE
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from tests.support.small_models import llama_tokenizer, small_model

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

HUGE = {
    "hidden_size": 65536,
    "num_hidden_layers": 200,
    "intermediate_size": 65536,
    "num_attention_heads": 64,
    "vocab_size": 60000,
}


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """Returns a folder with a tokenizer and the config of a Llama that fits into no machine, without weights."""
    folder = tmp_path / "huge"
    config = LlamaConfig(**HUGE)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    llama_tokenizer().save_pretrained(folder)
    return folder


def request_for(store: Path, *overrides: str) -> RunRequest:
    return load_request("smoke", list(overrides), store)


def check(request: RunRequest, **options: Any) -> None:
    """Checks memory as `clozeline run` does."""
    steps = build_steps(request.config)
    check_machine(request, RunOptions(engine=ENGINE, **options), plan(steps, request.store))


def test_a_plan_shows_the_memory_of_steps_with_a_backbone(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("plan", "smoke", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("RUN")}
    for name, row in rows.items():
        has_backbone = name.split("/")[0] in ("ppt", "pet", "zero_shot", "prompts")
        assert ("GiB" in row) == has_backbone, row
    assert "this machine has" in done.stdout


def test_a_run_with_a_step_that_cannot_fit_is_an_error(huge: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check(request_for(tmp_path / "store", f"backbone.asset={huge}"))
    message = str(caught.value)
    assert "needs" in message and "GiB per worker" in message and "this machine has" in message
    assert "Use a smaller backbone" in message and "resources.check_memory: false" in message
    assert not any((tmp_path / "store").glob("*/*"))


def test_the_memory_check_can_be_turned_off(huge: Path, tmp_path: Path) -> None:
    backbone = f"backbone.asset={huge}"
    rows = memory.memory_rows(build_steps(request_for(tmp_path / "store", backbone).config), memory.local_budget(()))
    assert any(row.is_refused for row in rows.values())
    check(request_for(tmp_path / "store", backbone, "resources={check_memory: false}"))
    check(request_for(tmp_path / "store", backbone), address="auto")


def test_a_backbone_that_is_not_cached_has_unknown_memory(tmp_path: Path) -> None:
    request = request_for(tmp_path / "store", "backbone.asset=hf:org/nothing")
    rows = memory.memory_rows(build_steps(request.config), MemoryBudget(GIB, None))
    assert rows and all(row.needs is None and row.fits for row in rows.values())
    assert rows["zero_shot/" + next(iter(request.config.hard_patterns))].text() == "single, unknown"
    check(request)


def test_a_remedy_is_a_strategy_that_fits(huge: Path, tmp_path: Path) -> None:
    gpus = "resources={gpus: 1, cpus: 1}"
    steps = list(build_steps(request_for(tmp_path / "store", f"backbone.asset={huge}", gpus).config))
    shape = cached_shape(BackboneConfig(asset=str(huge)))
    assert shape is not None
    budget = MemoryBudget(10**18, shape.num_parameters * 2 // 3)
    row = next(iter(memory.memory_rows(steps, budget).values()))
    assert row.is_refused
    strategy, workers = row.remedy.removeprefix("Set strategy: ").split(", workers: ")
    assert strategy == "fsdp"
    with pytest.raises(InputError, match=f"workers: {workers}"):
        memory.check_fits(steps, budget)
    fixed = [replace(step, resources=Resources(gpus=1, strategy="fsdp", workers=int(workers))) for step in steps]
    memory.check_fits(fixed, budget)


def test_a_step_that_may_not_fit_is_shown_but_not_an_error(tmp_path: Path) -> None:
    steps = build_steps(request_for(tmp_path / "store").config)
    row = next(iter(memory.memory_rows(steps, MemoryBudget(None, None)).values()))
    assert row.needs is not None
    tight = MemoryBudget((row.needs.machine.required + row.needs.machine.total) // 2, None)
    tight_row = next(iter(memory.memory_rows(steps, tight).values()))
    assert not tight_row.fits and not tight_row.is_refused
    assert "does not fit" in tight_row.text()


def test_shapes_need_only_the_config_and_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    tokenizer = llama_tokenizer()
    model = small_model("llama", len(tokenizer), tokenizer)
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = model.dtype
    model.config.save_pretrained(tmp_path / "llama")
    shape = shape_of(tmp_path / "llama")
    assert [path.name for path in (tmp_path / "llama").glob("*.json")].count("config.json") == 1
    assert shape.num_parameters == sum(item.numel() for item in model.parameters())
    assert shape.largest_module == len(tokenizer) * 32
    assert (shape.num_layers, shape.width, shape.inner, shape.num_heads) == (2, 32, 64, 4)
    assert shape.adapted["gate_proj"] == 2 * (32 + 64)
    assert "lm_head" not in shape.adapted
    assert shape.kept_inner == 3
    assert not shape.reads_vocabulary
    layer = model.model.layers[0]
    assert shape.num_unsharded == model.model.norm.weight.numel(), "embeddings and LM head of this model are not tied"
    assert shape.largest_unit == max(len(tokenizer) * 32, sum(item.numel() for item in layer.parameters()))
    assert shape.file_weight_bytes == 4
    (cached,) = (tmp_path / "cache" / "shapes").iterdir()
    start = time.perf_counter()
    assert shape_of(tmp_path / "llama") == shape
    assert time.perf_counter() - start < 0.5
    cached.write_text("{}")
    assert shape_of(tmp_path / "llama") == shape, "a damaged file is replaced"


def test_the_layers_of_a_decoder_are_counted_separately(tmp_path: Path) -> None:
    config = T5Config(vocab_size=100, d_model=32, d_ff=64, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu")
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    assert (shape.num_layers, shape.num_decoder_layers) == (3, 3)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "t5"
    assert shape.reads_vocabulary
    assert shape.kept_inner == 6
