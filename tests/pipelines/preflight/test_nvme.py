"""What a run looks at before weights shall lie on a disk, and what a plan tells of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cluster.errors import OffloadError
from cluster.parallel import nvme_offload
from cluster.parallel.config import NUM_BUFFERS
from cluster.parallel.memory import MemoryBudget
from cluster.run.result import RunOptions
from cluster.steps.plan import plan
from pipelines.dag.fewshot import build_steps
from pipelines.preflight import memory
from pipelines.run.request import RunRequest, check_machine, load_request
from stages.common.errors import InputError
from tests.support.small_models import llama_tokenizer


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that finds every header; whoever writes to it makes another."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexit 0\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return compiler


def asked(tmp_path: Path, disk: Path, *overrides: str) -> RunRequest:
    swapping = f"resources={{strategy: zero3_offload, workers: 2, nvme_path: {disk}}}"
    return load_request("smoke", [swapping, *overrides], tmp_path / "store")


def check(request: RunRequest, address: str | None = None) -> None:
    found = build_steps(request.config)
    check_machine(request, RunOptions(address=address), plan(found, request.store))


def refused(request: RunRequest) -> InputError:
    with pytest.raises(InputError) as caught:
        check(request)
    assert caught.value.key == "resources.offload_to"
    assert not any((request.store.local).glob("*/*"))
    return caught.value


def test_a_run_needs_a_compiler(tools: Path, tmp_path: Path) -> None:
    check(asked(tmp_path, tmp_path))
    tools.unlink()
    told = str(refused(asked(tmp_path, tmp_path)))
    assert "C++ compiler" in told and "apt install libaio-dev g++" in told


def test_a_run_needs_the_header_of_libaio(tools: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    tools.write_text(f"#!/bin/sh\ncat > {seen}\nexit 1\n")
    told = str(refused(asked(tmp_path, tmp_path)))
    assert "needs libaio.h" in told and "apt install libaio-dev g++" in told
    assert seen.read_text() == "#include <libaio.h>\n"


def test_a_run_needs_the_folder(tools: Path, tmp_path: Path) -> None:
    told = str(refused(asked(tmp_path, tmp_path / "nowhere")))
    assert f"nvme_path {tmp_path / 'nowhere'} is not a folder on {os.uname().nodename}" in told


def test_of_a_cluster_the_machines_are_asked(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(tmp_path, tmp_path / "nowhere")
    assert "is not a folder" in str(refused(request)), "here it would be refused"
    check(request, address="auto")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check(request)
    assert not (tmp_path / "nowhere").exists()


def test_a_plan_tells_what_lies_on_the_disk(tmp_path: Path) -> None:
    sizes = {"hidden_size": 2048, "num_hidden_layers": 4, "intermediate_size": 8192, "num_attention_heads": 16}
    config = LlamaConfig(**sizes, vocab_size=60000, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path / "llama")
    llama_tokenizer().save_pretrained(tmp_path / "llama")
    backbone = f"backbone={{asset: {tmp_path / 'llama'}, precision: fp32}}"
    found = build_steps(asked(tmp_path, tmp_path, backbone).config)
    line = memory.memory_rows(found, MemoryBudget(None, None))["pet/review/0"]
    assert line.needs is not None
    norms = (2 * 4 + 1) * 2048
    numbers = 2 * 60000 * 2048 + 4 * (4 * 2048 * 2048 + 3 * 2048 * 8192)
    assert line.needs.disk == numbers // 2 * 4
    assert line.needs.machine.weights == norms // 2 * 4
    assert line.needs.machine.disk_buffers == NUM_BUFFERS * 60000 * 2048 // 2 * 4
    assert line.text().startswith("zero3_offload x 2, ")
    assert line.text().endswith(f", disk {numbers * 2 / (1 << 30):.1f} GiB")


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    living = nvme_offload.OffloadFolder(tmp_path, Path("/work/a"))
    dead = tmp_path / f"{nvme_offload.PREFIX}dead"
    (dead / "zero_stage_3").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    other = nvme_offload.OffloadFolder(tmp_path, Path("/work/b"))
    assert {item.name for item in tmp_path.iterdir()} == {living.path.name, other.path.name, "other"}
    (living.path / "weights").write_text("0")
    living.close()
    other.close()
    assert [item.name for item in tmp_path.iterdir()] == ["other"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OffloadError, match="is not a folder"):
        nvme_offload.OffloadFolder(tmp_path / "file", Path("/work/a"))
