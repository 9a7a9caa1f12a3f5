"""The planner of memory on real recipes: what a plan tells, and what a run refuses."""

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
from pipelines.preflight.model_shapes import cached_shape, shape_of
from pipelines.run.request import RunRequest, check_machine, load_request
from stages.common.errors import InputError
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
    """A folder with the config of a Llama that no machine holds, and a tokenizer; there are no weights."""
    folder = tmp_path / "huge"
    config = LlamaConfig(**HUGE)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    llama_tokenizer().save_pretrained(folder)
    return folder


def asked(store: Path, *overrides: str) -> RunRequest:
    return load_request("smoke", list(overrides), store)


def checked(request: RunRequest, **options: Any) -> None:
    """What `clozeline run` does behind its other checks."""
    found = build_steps(request.config)
    check_machine(request, RunOptions(**options), plan(found, request.store))


def test_a_plan_tells_the_memory_of_every_step_with_a_backbone(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("plan", "smoke", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("RUN")}
    for name, row in rows.items():
        has_backbone = name.split("/")[0] in ("ppt", "pet", "zero_shot", "prompts")
        assert ("GiB" in row) == has_backbone, row
    assert "this machine has" in done.stdout


def test_what_cannot_fit_is_refused_before_anything_starts(huge: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        checked(asked(tmp_path / "store", f"backbone.asset={huge}"))
    told = str(caught.value)
    assert "needs" in told and "GiB a worker" in told and "this machine has" in told
    assert "Take a smaller backbone" in told and "resources.check_memory: false" in told
    assert not any((tmp_path / "store").glob("*/*"))


def test_a_person_can_go_on_all_the_same(huge: Path, tmp_path: Path) -> None:
    backbone = f"backbone.asset={huge}"
    of_steps = memory.memory_rows(build_steps(asked(tmp_path / "store", backbone).config), memory.local_budget(()))
    assert any(line.is_refused for line in of_steps.values()), "else there would be nothing to go on against"
    checked(asked(tmp_path / "store", backbone, "resources={check_memory: false}"))
    checked(asked(tmp_path / "store", backbone), address="auto")


def test_what_is_not_on_this_machine_is_unknown_and_not_refused(tmp_path: Path) -> None:
    request = asked(tmp_path / "store", "backbone.asset=hf:nobody/nothing")
    found = memory.memory_rows(build_steps(request.config), MemoryBudget(GIB, None))
    assert found and all(line.needs is None and line.fits for line in found.values())
    assert found["zero_shot/" + next(iter(request.config.hard_patterns))].text() == "single, unknown"
    checked(request)


def test_a_remedy_is_a_strategy_that_fits(huge: Path, tmp_path: Path) -> None:
    gpus = "resources={gpus: 1, cpus: 1}"
    found = list(build_steps(asked(tmp_path / "store", f"backbone.asset={huge}", gpus).config))
    shape = cached_shape(str(huge))
    assert shape is not None
    room = MemoryBudget(10**18, shape.num_parameters * 2 // 3)
    line = next(iter(memory.memory_rows(found, room).values()))
    assert line.is_refused
    strategy, workers = line.remedy.removeprefix("Take strategy: ").split(", workers: ")
    assert strategy == "zero3"
    with pytest.raises(InputError, match=f"workers: {workers}"):
        memory.check_fits(found, room)
    mended = [replace(step, resources=Resources(gpus=1, strategy="zero3", workers=int(workers))) for step in found]
    memory.check_fits(mended, room)


def test_what_does_not_quite_fit_is_told_and_not_refused(tmp_path: Path) -> None:
    found = build_steps(asked(tmp_path / "store").config)
    line = next(iter(memory.memory_rows(found, MemoryBudget(None, None)).values()))
    assert line.needs is not None
    tight = MemoryBudget((line.needs.machine.required + line.needs.machine.total) // 2, None)
    told = next(iter(memory.memory_rows(found, tight).values()))
    assert not told.fits and not told.is_refused
    assert "does not fit" in told.text()


def test_shapes_are_read_from_the_config_alone_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    tokenizer = llama_tokenizer()
    model = small_model("llama", len(tokenizer), tokenizer)
    model.config.architectures = ["LlamaForCausalLM"]
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
    (kept,) = (tmp_path / "cache" / "shapes").iterdir()
    begun = time.perf_counter()
    assert shape_of(tmp_path / "llama") == shape
    assert time.perf_counter() - begun < 0.5
    kept.write_text("{}")
    assert shape_of(tmp_path / "llama") == shape, "a damaged file is written anew"


def test_a_decoder_is_counted_apart(tmp_path: Path) -> None:
    config = T5Config(vocab_size=100, d_model=32, d_ff=64, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu")
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    assert (shape.num_layers, shape.num_decoder_layers) == (3, 3)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "t5"
    assert shape.reads_vocabulary
    assert shape.kept_inner == 6
