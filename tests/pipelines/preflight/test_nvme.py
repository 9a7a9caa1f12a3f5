"""Checks before a run with weights on a disk, and the disk space that a plan shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cluster.parallel.config import NUM_BUFFERS
from cluster.parallel.memory import MemoryBudget
from cluster.run.result import RunOptions
from cluster.steps.plan import plan
from pipelines.dag.fewshot import build_steps
from pipelines.preflight import memory
from pipelines.run.request import RunRequest, check_machine, load_request
from stages.common.engine import ENGINE
from stages.common.errors import InputError
from tests.support.small_models import llama_tokenizer


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a compiler that finds every header. Tests replace it by writing to it."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexit 0\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return compiler


def request_for(tmp_path: Path, disk: Path, *overrides: str) -> RunRequest:
    offload = f"resources={{strategy: zero3_offload, workers: 2, nvme_path: {disk}}}"
    return load_request("smoke", [offload, *overrides], tmp_path / "store")


def check(request: RunRequest, address: str | None = None) -> None:
    steps = build_steps(request.config)
    check_machine(request, RunOptions(engine=ENGINE, address=address), plan(steps, request.store))


def error_of(request: RunRequest) -> InputError:
    with pytest.raises(InputError) as caught:
        check(request)
    assert caught.value.key == "resources.nvme_path"
    assert not any((request.store.local).glob("*/*"))
    return caught.value


def test_a_run_needs_a_compiler(tools: Path, tmp_path: Path) -> None:
    check(request_for(tmp_path, tmp_path))
    tools.unlink()
    message = str(error_of(request_for(tmp_path, tmp_path)))
    assert "C++ compiler" in message and "apt install libaio-dev g++" in message


def test_a_run_needs_the_header_of_libaio(tools: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    tools.write_text(f"#!/bin/sh\ncat > {source}\nexit 1\n")
    message = str(error_of(request_for(tmp_path, tmp_path)))
    assert "needs libaio.h" in message and "apt install libaio-dev g++" in message
    assert source.read_text() == "#include <libaio.h>\n"


def test_a_run_needs_the_folder(tools: Path, tmp_path: Path) -> None:
    message = str(error_of(request_for(tmp_path, tmp_path / "nowhere")))
    assert f"nvme_path {tmp_path / 'nowhere'} is not a folder on {os.uname().nodename}" in message


def test_on_a_cluster_the_driver_does_not_check(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(tmp_path, tmp_path / "nowhere")
    assert "is not a folder" in str(error_of(request)), "an error without a cluster"
    check(request, address="auto")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check(request)
    assert not (tmp_path / "nowhere").exists()


def test_a_plan_shows_the_disk_space_of_weights(tmp_path: Path) -> None:
    sizes = {"hidden_size": 2048, "num_hidden_layers": 4, "intermediate_size": 8192, "num_attention_heads": 16}
    config = LlamaConfig(**sizes, vocab_size=60000, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path / "llama")
    llama_tokenizer().save_pretrained(tmp_path / "llama")
    backbone = f"backbone={{asset: {tmp_path / 'llama'}, precision: fp32}}"
    steps = build_steps(request_for(tmp_path, tmp_path, backbone).config)
    row = memory.memory_rows(steps, MemoryBudget(None, None))["pet/review/0"]
    assert row.needs is not None
    norms = (2 * 4 + 1) * 2048
    numbers = 2 * 60000 * 2048 + 4 * (4 * 2048 * 2048 + 3 * 2048 * 8192)
    assert row.needs.disk == numbers // 2 * 4
    assert row.needs.machine.weights == norms // 2 * 4
    assert row.needs.machine.disk_buffers == NUM_BUFFERS * 60000 * 2048 // 2 * 4
    assert row.text().startswith("zero3_offload x 2, ")
    assert row.text().endswith(f", disk {numbers * 2 / (1 << 30):.1f} GiB")
