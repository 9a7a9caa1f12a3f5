"""A recipe with shards on Ray: two workers, a process that is killed between two shards, a malformed row."""

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

from cluster.run.capacity import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.dag import fewshot
from pipelines.preflight.checks import check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.data import parquet_shards
from stages.common.data.step_outputs import read_logits
from stages.common.engine import ENGINE
from stages.common.errors import InputError
from tests.support import sharded_steps
from tests.support.small_models import TOKENIZERS, film_example, film_examples, film_task, small_model, write_lines
from tests.support.steps import function_name

SIZES = (13, 2, 21)
LABELS = ("rotten", "fresh")

pytestmark = pytest.mark.timeout(300)
Recipe = Callable[..., PipelineConfig]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe on a small model, with members of three kinds. Unlabeled set and shards have the same texts."""
    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    model = small_model("bert", len(tokenizer), tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.25)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, items in (("train", film_examples(8, start=100)), ("test", film_examples(6, start=200))):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": item.fields["text"], "label": item.label} for item in items])
    texts: list[dict[str, object]] = [{"text": film_example(row).fields["text"]} for row in range(sum(SIZES))]
    (tmp_path / "shards").mkdir()
    write_lines(tmp_path / "unlabeled.jsonl", texts)
    for number, size in enumerate(SIZES):
        first = sum(SIZES[:number])
        write_lines(tmp_path / "shards" / f"part-{number}.jsonl", texts[first : first + size])
    task = film_task("bert")
    labeled = {name: {"asset": str(tmp_path / f"{name}.jsonl"), "label": "label"} for name in ("train", "test")}
    encoder = {"asset": str(tmp_path / "model"), "max_length": 64, "precision": "fp32"}

    training = {"learning_rate": 0.02, "steps": 3}

    def make(**changes: Any) -> PipelineConfig:
        return load_config({
            "name": "films", "task": task.model_dump(exclude_defaults=True), "backbone": encoder,
            "students": {"small": encoder},
            "data": {**labeled, "unlabeled": {"asset": str(tmp_path / "unlabeled.jsonl")}},
            "zero_shot": False,
            "pet": {"lora": {"rank": 2, "targets": ["query", "value"]}, "training": training, "num_folds": 2},
            "members": {
                "words": {"kind": "tfidf"},
                "large": {"kind": "finetuned", "encoder": encoder, "training": training, "num_folds": 2},
            },
            "ensemble": {"average": "probabilities", "calibration": "unlabeled", "scaling": "held_out"},
            "unlabeled_shards": {
                "source": {"asset": str(tmp_path / "shards" / "part-*.jsonl")}, "batch_size": 4,
                "workers": 2, "cpus": 0.5, "max_student_examples": 20,
            },
            "distill": {"training": {"learning_rate": 1e-3, "steps": 2}},
            **changes,
        })  # fmt: skip

    return make


def named(steps: list[Step], name: str) -> Step:
    return next(step for step in steps if step.name == name)


def ran(steps: list[Step], store: Store) -> RunResult:
    return execute(
        steps, store, RunOptions(engine=ENGINE, identify=IDENTIFY, locate=LOCATE, poll_s=0.05, backoff_s=0.1)
    )


@pytest.mark.slow
def test_two_workers_label_shards_and_resume_after_a_kill(
    recipe: Recipe, ray_session: Capacity, tmp_path: Path
) -> None:
    """The process of the step is killed in the second shard; the next attempt keeps the first."""
    steps, store = fewshot.build_steps(recipe()), open_store(tmp_path / "store")
    shards, fault = named(steps, "soft_label_shards"), tmp_path / "fault"
    fault.touch()
    config = sharded_steps.Config(**dict(shards.config), fault=str(fault), at=SIZES[0] + 1)
    killed = replace(shards, run=function_name(sharded_steps.run), config=config)
    student = named(steps, "distill/small/0")
    outcome = ran([named(steps, "soft_labels"), replace(student, inputs={**student.inputs, "shards": killed})], store)
    assert outcome.ok, outcome.errors
    folder = {name: store.files(name, report.fingerprint) for name, report in outcome.steps.items()}
    done = json.loads(fault.with_suffix(".json").read_text())
    assert set(done) == {"part-0.parquet"}
    after = sharded_steps.files_of(folder["soft_label_shards"])
    assert after["part-0.parquet"] == done["part-0.parquet"]
    assert [parquet.read_metadata(folder["soft_label_shards"] / name).num_rows for name in sorted(after)] == list(SIZES)

    rows = [
        row
        for part in parquet_shards.iter_rows(folder["soft_label_shards"], ["fields", "logits"])
        for row in part.to_pylist()
    ]
    assert [row["fields"]["text"] for row in rows] == [film_example(row).fields["text"] for row in range(sum(SIZES))]
    expected = read_logits(folder["soft_labels"] / "soft_labels.jsonl", LABELS).logits
    assert np.ptp(expected) > 0.1
    assert np.array([[row["logits"][label] for label in LABELS] for row in rows]) == pytest.approx(expected, abs=1e-4)
    assert json.loads((folder["distill/small/0"] / "result.json").read_text())["num_unlabeled"] == 20


def test_malformed_row_fails_the_step_and_is_named(recipe: Recipe, ray_session: Capacity, tmp_path: Path) -> None:
    with (tmp_path / "shards" / "part-1.jsonl").open("a") as file:
        file.write("{}\n")
    outcome = ran([named(fewshot.build_steps(recipe()), "soft_label_shards")], open_store(tmp_path / "store"))
    assert outcome.failed == ("soft_label_shards",)
    assert "part-1.jsonl, line 3: there is no column 'text'" in str(outcome.errors["soft_label_shards"])
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_preflight_finds_errors_in_shards(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "shards" / "part-2.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"part-2\.jsonl, line 2: 'text' is int") as caught:
        check_recipe(recipe(), lambda *_: None)
    assert caught.value.key == "unlabeled_shards.source"
    with pytest.raises(InputError, match=r"none-\*\.jsonl matches no file"):
        check_recipe(recipe(unlabeled_shards={"source": {"asset": str(tmp_path / "none-*.jsonl")}}), lambda *_: None)
    with pytest.raises(InputError, match="the shards do not have"):
        source = {"asset": str(tmp_path / "shards"), "fields": {"review": "text"}}
        check_recipe(recipe(unlabeled_shards={"source": source}), lambda *_: None)


def test_changed_shard_changes_the_key(recipe: Recipe, tmp_path: Path) -> None:
    before = named(fewshot.build_steps(recipe()), "soft_label_shards")
    with (tmp_path / "shards" / "part-1.jsonl").open("a") as file:
        file.write('{"text": "One more."}\n')
    after = named(fewshot.build_steps(recipe()), "soft_label_shards")
    changed = {name for name in after.assets if after.assets[name] != before.assets[name]}
    assert changed == {"shards.source.asset.part-1"}
    assert before.config == after.config
