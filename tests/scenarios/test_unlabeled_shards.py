"""A recipe with shards, for real: two workers, a process that dies between two shards, a row that breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from cluster.run.ray_session import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Step, function_name
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.dag import fewshot
from pipelines.preflight.checks import check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.data import parquet_shards
from stages.common.data.step_outputs import read_logits
from stages.common.errors import InputError
from tests.support import sharded_steps
from tests.support.small_models import TOKENIZERS, film_example, film_examples, film_task, small_model, write_lines

SIZES = (13, 2, 21)
LABELS = ("rotten", "fresh")

pytestmark = pytest.mark.timeout(300)
Recipe = Callable[..., PipelineConfig]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe on a small model; the texts of its pile are those of its three shards."""
    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    model = small_model("bert", len(tokenizer), tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.25)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, items in (("train", film_examples(8)), ("test", film_examples(6, start=200))):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": item.fields["text"], "label": item.label} for item in items])
    texts: list[dict[str, object]] = [{"text": film_example(row).fields["text"]} for row in range(sum(SIZES))]
    (tmp_path / "pile").mkdir()
    write_lines(tmp_path / "pile.jsonl", texts)
    for number, size in enumerate(SIZES):
        first = sum(SIZES[:number])
        write_lines(tmp_path / "pile" / f"part-{number}.jsonl", texts[first : first + size])
    task = film_task("bert")
    labelled = {name: {"asset": str(tmp_path / f"{name}.jsonl"), "label": "label"} for name in ("train", "test")}
    encoder = {"asset": str(tmp_path / "model"), "max_length": 64, "precision": "fp32"}

    def make(**changes: Any) -> PipelineConfig:
        return load_config({
            "name": "films", "task": task.model_dump(exclude_defaults=True), "backbone": encoder, "student": encoder,
            "data": {**labelled, "unlabeled": {"asset": str(tmp_path / "pile.jsonl")}},
            "zero_shot": False,
            "pet": {"lora": {"rank": 2, "targets": ["query", "value"]}, "training": {"learning_rate": 0.02, "steps": 3}},
            "ensemble": {"mean": "probabilities", "calibration": "unlabeled"},
            "shards": {
                "source": {"asset": str(tmp_path / "pile" / "part-*.jsonl")}, "batch_size": 4,
                "workers": 2, "cpus": 0.5, "max_student_examples": 20,
            },
            "distill": {"training": {"learning_rate": 1e-3, "steps": 2}},
            **changes,
        })  # fmt: skip

    return make


def named(steps: list[Step], name: str) -> Step:
    return next(step for step in steps if step.name == name)


def ran(steps: list[Step], store: Store) -> RunResult:
    return execute(steps, store, RunOptions(poll_s=0.05, backoff_s=0.1))


@pytest.mark.slow
def test_shards_are_labelled_by_two_workers_and_what_was_done_survives_a_kill(
    recipe: Recipe, ray_session: Capacity, tmp_path: Path
) -> None:
    """The process of the step is killed within the second shard, and its next attempt takes the first as it is."""
    steps, store = fewshot.build_steps(recipe()), open_store(tmp_path / "store")
    shards, fault = named(steps, "shards"), tmp_path / "fault"
    fault.touch()
    config = sharded_steps.Config(**dict(shards.config), fault=str(fault), at=SIZES[0] + 1)
    killed = replace(shards, run=function_name(sharded_steps.run), config=config)
    student = named(steps, "distill/0")
    outcome = ran([named(steps, "soft_labels"), replace(student, inputs={**student.inputs, "shards": killed})], store)
    assert outcome.ok, outcome.errors
    folder = {name: store.files(name, report.fingerprint) for name, report in outcome.steps.items()}
    done = json.loads(fault.with_suffix(".json").read_text())
    assert set(done) == {"part-0.parquet"}, "it died behind the first shard"
    after = sharded_steps.files_of(folder["shards"])
    assert after["part-0.parquet"] == done["part-0.parquet"], "and that one was not made again"
    assert [parquet.read_metadata(folder["shards"] / name).num_rows for name in sorted(after)] == list(SIZES)

    rows = [
        row for part in parquet_shards.iter_rows(folder["shards"], ["fields", "logits"]) for row in part.to_pylist()
    ]
    assert [row["fields"]["text"] for row in rows] == [film_example(row).fields["text"] for row in range(sum(SIZES))]
    expected = read_logits(folder["soft_labels"] / "soft_labels.jsonl", LABELS).logits
    assert np.ptp(expected) > 0.1
    assert np.array([[row["logits"][label] for label in LABELS] for row in rows]) == pytest.approx(expected, abs=1e-4)
    assert json.loads((folder["distill/0"] / "result.json").read_text())["num_unlabeled"] == 20


def test_a_broken_row_fails_the_step_with_its_place(recipe: Recipe, ray_session: Capacity, tmp_path: Path) -> None:
    with (tmp_path / "pile" / "part-1.jsonl").open("a") as file:
        file.write("{}\n")
    outcome = ran([named(fewshot.build_steps(recipe()), "shards")], open_store(tmp_path / "store"))
    assert outcome.failed == ("shards",)
    assert "part-1.jsonl, line 3: there is no column 'text'" in str(outcome.errors["shards"])
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_what_is_wrong_with_shards_is_told_before_a_run(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "pile" / "part-2.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"part-2\.jsonl, line 2: 'text' is int") as caught:
        check_recipe(recipe(), lambda *_: None)
    assert caught.value.key == "shards.source"
    with pytest.raises(InputError, match=r"none-\*\.jsonl matches no file"):
        check_recipe(recipe(shards={"source": {"asset": str(tmp_path / "none-*.jsonl")}}), lambda *_: None)
    with pytest.raises(InputError, match="the shards do not have"):
        source = {"asset": str(tmp_path / "pile"), "fields": {"review": "text"}}
        check_recipe(recipe(shards={"source": source}), lambda *_: None)


def test_a_changed_shard_is_another_step(recipe: Recipe, tmp_path: Path) -> None:
    before = named(fewshot.build_steps(recipe()), "shards")
    with (tmp_path / "pile" / "part-1.jsonl").open("a") as file:
        file.write('{"text": "One more."}\n')
    after = named(fewshot.build_steps(recipe()), "shards")
    assert {name for name in after.assets if after.assets[name] != before.assets[name]} == {
        "shards.source.asset.part-1"
    }
    assert before.config == after.config
