"""Prompt pretraining on a corpus in shards on Ray: one and two workers, a process that is killed between two shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from cluster.parallel.memory import GIB, MemoryBudget
from cluster.run.capacity import Capacity
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.location import open_store
from pipelines.dag import fewshot
from pipelines.preflight import memory
from pipelines.preflight.checks import check_corpus_shards, check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, load_config, read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.engine import ENGINE
from stages.common.errors import DataError, InputError
from tests.support import built_steps
from tests.support.sharded_steps import files_of
from tests.support.small_models import TOKENIZERS, film_examples, film_task, small_model, write_lines
from tests.support.steps import function_name

SIZES = (9, 4, 1, 16)
"""Documents of the four shards. The third has too few for all formats except single."""

pytestmark = pytest.mark.timeout(600)
Recipe = Callable[..., PipelineConfig]


def document(number: int) -> str:
    words = ("warm", "clever", "dull", "bad")
    return " ".join(f"The {word} film number {number} was {word} again." for word in words)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe on a small model, with a corpus in four shards."""
    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    model = small_model("bert", len(tokenizer), tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for start, name in enumerate(("train", "test", "unlabeled")):
        examples = film_examples(8, start=100 * start)
        rows = [{"text": item.fields["text"], "label": item.label} for item in examples]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "shards").mkdir()
    for number, size in enumerate(SIZES):
        first = sum(SIZES[:number])
        rows = [{"text": document(first + row)} for row in range(size)]
        write_lines(tmp_path / "shards" / f"part-{number}.jsonl", rows)
    data = {name: {"asset": str(tmp_path / f"{name}.jsonl"), "label": "label"} for name in ("train", "test")}
    encoder = {"asset": str(tmp_path / "model"), "max_length": 100, "precision": "fp32"}

    def make(workers: int = 1, **ppt: Any) -> PipelineConfig:
        corpus = {
            "source": {"asset": str(tmp_path / "shards")}, "num_examples": 20, "max_sentence_words": 8, "window": 4,
            "shards": {"workers": workers, "cpus": 0.5},
        }  # fmt: skip
        single = {
            "verbalizer": {"rotten": ["bad"], "fresh": ["good"]}, "pattern": "{text} It was {mask}.",
            "min_confidence": 0.0, "candidates_per_example": 3,
        }  # fmt: skip
        training = {"learning_rate": 0.02, "steps": 2}
        return load_config({
            "name": "films", "task": film_task("bert").model_dump(exclude_defaults=True), "backbone": encoder,
            "students": {"small": encoder}, "zero_shot": False,
            "data": {**data, "unlabeled": {"asset": str(tmp_path / "unlabeled.jsonl")}},
            "ppt": {"formats": ["pair", "single"], "corpus": corpus, "single": single, "num_held_out": 6,
                    "num_virtual_tokens": 4, "training": training, "cpus": 0.5, **ppt},
            "pet": {"lora": {"rank": 2, "targets": ["query", "value"]}, "training": training},
            "distill": {"training": {"learning_rate": 1e-3, "steps": 2}},
        })  # fmt: skip

    return make


def steps_of(config: PipelineConfig) -> dict[str, Step]:
    return {step.name: step for step in fewshot.build_steps(config)}


def ran(steps: list[Step], store: Store) -> RunResult:
    return execute(
        steps, store, RunOptions(engine=ENGINE, identify=IDENTIFY, locate=LOCATE, poll_s=0.05, backoff_s=0.1)
    )


def built(outcome: RunResult, store: Store, name: str) -> dict[str, bytes]:
    """Name -> content of the shards that a step wrote."""
    assert outcome.ok, outcome.errors
    folder = store.files(name, outcome.steps[name].fingerprint)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.slow
def test_one_and_two_workers_build_the_same_examples(recipe: Recipe, ray_session: Capacity, tmp_path: Path) -> None:
    examples = {}
    for workers in (1, 2):
        steps, store = steps_of(recipe(workers)), open_store(tmp_path / f"store{workers}")
        names = ["ppt_examples/pair", "ppt_examples/single", *(["ppt/pair", "ppt/single"] if workers == 2 else [])]
        outcome = ran([steps[name] for name in names], store)
        examples[workers] = {name: built(outcome, store, name) for name in names[:2]}
        assert {steps[name].resources.workers for name in names[:2]} == {workers}
    assert examples[1] == examples[2]
    assert list(examples[1]["ppt_examples/pair"]) == ["part-0.parquet", "part-1.parquet", "part-3.parquet"]
    for kind in ("pair", "single"):
        folder = store.files(f"ppt/{kind}", outcome.steps[f"ppt/{kind}"].fingerprint)
        result = json.loads((folder / "result.json").read_text())
        assert (result["num_examples"], result["held_out"]["num_examples"]) == (20, 6)
        assert result["num_documents"] == (sum(SIZES) if kind == "single" else sum(SIZES) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pair", "single"])
def test_built_shards_survive_a_kill(kind: str, recipe: Recipe, ray_session: Capacity, tmp_path: Path) -> None:
    """The process of the step is killed in the second shard; the next attempt keeps the first."""
    steps, store = steps_of(recipe(2)), open_store(tmp_path / "store")
    step, fault = steps[f"ppt_examples/{kind}"], tmp_path / "fault"
    uninterrupted = built(ran([step], store), store, step.name)
    first = parquet.read_metadata(store.files(step.name, ran([step], store).steps[step.name].fingerprint)
                                  / "part-0.parquet").num_rows  # fmt: skip
    fault.touch()
    config = built_steps.Config(**dict(step.config), fault=str(fault), at=first + 1)
    killed = replace(step, name="killed", run=function_name(built_steps.run), config=config)
    outcome = ran([killed], store)
    assert outcome.ok, outcome.errors
    done = json.loads(fault.with_suffix(".json").read_text())
    assert set(done) == {"part-0.parquet"}
    after = files_of(store.files("killed", outcome.steps["killed"].fingerprint))
    assert after["part-0.parquet"] == done["part-0.parquet"]
    assert built(outcome, store, "killed") == uninterrupted


def test_row_without_the_column_fails_the_step_and_is_named(
    recipe: Recipe, ray_session: Capacity, tmp_path: Path
) -> None:
    with (tmp_path / "shards" / "part-3.jsonl").open("a") as file:
        file.write('{"body": "a"}\n')
    outcome = ran([steps_of(recipe(2))["ppt_examples/pair"]], open_store(tmp_path / "store"))
    assert outcome.failed == ("ppt_examples/pair",)
    message = str(outcome.errors["ppt_examples/pair"])
    assert "part-3.jsonl, line 17: there is no column 'text'" in message
    assert "body" in message
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_preflight_finds_errors_in_a_corpus_in_shards(recipe: Recipe, tmp_path: Path) -> None:
    check_recipe(recipe(), lambda *_: None)
    config = recipe()
    assert config.ppt is not None
    (tmp_path / "shards" / "part-2.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(InputError, match=r"part-2\.jsonl, line 1: there is no column 'text'.*body") as row:
        check_recipe(config, lambda *_: None)
    assert row.value.key == "ppt.corpus.source"
    for path in (tmp_path / "shards").iterdir():
        path.rename(path.with_suffix(".csv"))
    with pytest.raises(DataError, match=r"shards matches no file\..* \.parquet"):
        check_corpus_shards(config.ppt)
    source = config.ppt.corpus.source.model_copy(update={"asset": str(tmp_path / "shards" / "part-0.csv")})
    corpus = config.ppt.corpus.model_copy(update={"source": source})
    with pytest.raises(DataError, match=r"part-0\.csv is not a folder.*or remove shards") as folder:
        check_corpus_shards(config.ppt.model_copy(update={"corpus": corpus}))
    assert folder.value.key == "ppt.corpus.source.asset"


def test_changed_shard_changes_the_key_and_workers_do_not(recipe: Recipe, tmp_path: Path) -> None:
    before, more = steps_of(recipe())["ppt_examples/pair"], steps_of(recipe(7))["ppt_examples/pair"]
    assert (before.config, before.assets) == (more.config, more.assets)
    with (tmp_path / "shards" / "part-1.jsonl").open("a") as file:
        file.write('{"text": "One more."}\n')
    after = steps_of(recipe())
    changed = {name for name, digest in before.assets.items() if after["ppt_examples/pair"].assets[name] != digest}
    assert changed == {"corpus.source.asset.part-1"}
    assert "corpus.source.asset" not in after["ppt/pair"].assets


def planned(*overrides: str) -> dict[str, Step]:
    overrides = ("ppt.corpus.source.limit=null", *overrides)
    return steps_of(read_recipe(find_recipe("smoke"), PipelineConfig, overrides))


def test_workers_of_a_corpus_get_all_resources_but_the_strategy() -> None:
    shards = "ppt.corpus.shards={cpus: 3}"
    steps = planned("resources={strategy: zero3, workers: [2, 4], gpus: 1, cpus: 2}", shards)
    assert steps["ppt_examples/pair"].resources == Resources(cpus=3, gpus=1, workers=4, strategy="stream")
    assert steps["ppt/pair"].resources.strategy == "zero3"
    assert not any(name.startswith("ppt_examples/") for name in planned())


def test_shards_with_a_limit_raise() -> None:
    with pytest.raises(RecipeError, match="shards are read in full") as caught:
        planned("ppt.corpus.shards={}", "ppt.corpus.source.limit=10")
    assert caught.value.key == "ppt.corpus.source.limit"


def test_memory_plan_counts_one_model_per_labeling_worker() -> None:
    overrides = ("ppt.formats=[pair, single]", "ppt.corpus.shards={workers: 3}")
    steps = list(planned(*overrides).values())
    rows = memory.memory_rows(steps, MemoryBudget(64 * GIB, None))
    assert "ppt_examples/pair" not in rows
    row = rows["ppt_examples/single"]
    assert row.needs is not None
    assert row.fits
    assert row.text().startswith("stream x 3, ")
    tight = memory.memory_rows(steps, MemoryBudget(int(2.5 * row.needs.machine.total), None))["ppt_examples/single"]
    assert (tight.fits, tight.is_refused, tight.remedy) == (False, False, "Set workers: 2")
