"""The recipes of the papers: complete, with patterns and lengths of the papers, and planned without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.dag.fewshot import build_steps
from pipelines.schema import loader as recipe_module
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import RECIPES, find_recipe, read_recipe, shipped_recipes
from pipelines.schema.locations import RecipeError
from stages.common.data.sources import iter_examples
from tests.support.paths import ROOT

PAPER = [name for name in shipped_recipes() if name.startswith("paper/")]
EACL = ["paper/ag_news", "paper/mnli", "paper/yahoo", "paper/yelp"]
FEWGLUE = ["paper/boolq", "paper/cb", "paper/copa", "paper/multirc", "paper/rte", "paper/wic"]
NUM_PATTERNS = {  # counted in pet/pvp.py of the authors' code, and in FewCLUE's pet_*.py
    "ag_news": 6,
    "ag_news_zero": 6,
    "boolq": 6,
    "cb": 5,
    "copa": 2,
    "eprstmt": 1,
    "mnli": 4,
    "multirc": 4,
    "rte": 5,
    "tnews": 1,
    "wic": 3,
    "yahoo": 6,
    "yelp": 4,
}

# An audit hook ends the interpreter if it looks up a host, connects to one, or starts another program.
PLAN_ALONE = """
import os, sys

def refuse(event, arguments):
    if event == "subprocess.Popen" and arguments[0] == "nvidia-smi":
        return  # lists the GPUs of this machine
    if event in ("socket.getaddrinfo", "socket.connect", "subprocess.Popen", "os.system"):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(97)

sys.addaudithook(refuse)
from pipelines.cli.app import app
for name in sys.argv[2:]:
    app(["plan", name, "--store", sys.argv[1]], standalone_mode=False)
"""


def read(name: str, *overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe(name), PipelineConfig, overrides)


def num_submodels(config: PipelineConfig) -> int:
    return sum(step.kind == "pet" for step in build_steps(config))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_task_of_the_papers_has_a_recipe() -> None:
    assert set(PAPER) == {f"paper/{name}" for name in NUM_PATTERNS}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_has_its_own_name_and_the_patterns_of_the_paper(name: str) -> None:
    config = read(name)
    assert config.name == name.removeprefix("paper/")
    assert len(config.task.patterns) == NUM_PATTERNS[config.name]
    assert config.pet.patterns is None, "every pattern is trained"


@pytest.mark.parametrize("name", PAPER)
def test_every_answer_has_one_distinct_word_per_pattern(name: str) -> None:
    task = read(name).task
    for pattern in task.patterns:
        words = task.words(pattern)
        assert tuple(words) == task.answers
        assert all(len(item) == 1 for item in words.values())
        assert len({item[0].casefold() for item in words.values()}) == len(task.answers)


@pytest.mark.parametrize("name", PAPER)
def test_every_source_has_the_fields_of_the_patterns_and_labels_of_the_task(name: str) -> None:
    config = read(name)
    for source in config.data.sources.values():
        assert set(config.task.fields) <= set(source.fields)
        assert set(source.label_map.values()) <= set(config.task.labels)


@pytest.mark.parametrize("name", PAPER)
def test_words_that_yaml_may_read_as_booleans_are_quoted(name: str) -> None:
    raw = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))["task"]
    flat = [*raw["labels"], *raw["verbalizer"]]
    for words in raw["verbalizer"].values():
        flat += [word for group in (words.values() if isinstance(words, dict) else [words]) for word in group]
    assert all(isinstance(word, str) for word in flat)


@pytest.mark.parametrize("name", EACL)
def test_eacl_submodels_see_4000_labeled_and_12000_unlabeled_examples(name: str) -> None:
    config = read(name)
    training, mlm = config.pet.training, config.pet.mlm
    assert training is not None
    assert mlm is not None
    assert training.num_steps(100) * training.batch_size == 250 * 16
    assert (training.micro_batch_size, mlm.batch_size, mlm.weight) == (1, 12, 1e-4)
    assert config.baseline is not None
    assert config.baseline.training is not None
    assert (config.baseline.training.steps, config.baseline.training.batch_size) == (250, 16)


@pytest.mark.parametrize("name", EACL)
def test_eacl_has_100_labeled_examples_and_10000_unlabeled_ones_per_class(name: str) -> None:
    config = read(name)
    num_labels = len(config.task.labels)
    assert config.data.shots == 100 // num_labels
    assert config.data.unlabeled_size == 10_000 * num_labels


@pytest.mark.parametrize("name", FEWGLUE)
def test_fewglue_trains_250_steps_of_16_without_the_auxiliary_loss(name: str) -> None:
    config = read(name)
    assert config.pet.training is not None
    assert (config.pet.training.steps, config.pet.training.batch_size, config.pet.training.micro_batch_size) == (
        250,
        16,
        4,
    )
    assert config.pet.mlm is None
    assert config.backbone.max_length == (512 if name == "paper/multirc" else 256)


@pytest.mark.parametrize("name", PAPER)
def test_unlabeled_files_are_used_in_full(name: str) -> None:
    data = read(name).data
    assert data.unlabeled is None or data.unlabeled_size == 20_000


@pytest.mark.parametrize("name", [*EACL, *FEWGLUE])
def test_pet_trains_all_weights_with_three_seeds_and_distills_for_5000_steps(name: str) -> None:
    config = read(name)
    assert config.pet.tune == "full"
    assert num_submodels(config) == 3 * len(config.task.patterns)
    for training in (config.pet.training, config.distill.training):
        assert training is not None
        assert (training.learning_rate, training.weight_decay, training.lr_scheduler, training.warmup_ratio) == (
            1e-5,
            0.01,
            "linear",
            0.0,
        )
    assert config.distill.training is not None
    assert (config.distill.training.steps, config.distill.training.batch_size) == (5000, 16)
    assert config.distill.temperature == 2
    assert config.ensemble.weights == "accuracy"
    assert config.students["small"].asset == config.backbone.asset
    assert config.students["small"].pooling == "cls"


@pytest.mark.parametrize("name", [*EACL, *FEWGLUE])
def test_the_override_in_the_first_lines_enables_ipet(name: str) -> None:
    override = "pet.ipet={generations: 2, weights: accuracy}"
    head = find_recipe(name).read_text(encoding="utf-8").partition("name:")[0]
    assert f"-o '{override}'" in head
    config = read(name, override)
    assert num_submodels(config) == 3 * 3 * len(config.task.patterns), "three generations in total"
    assert config.pet.ipet is not None
    assert (config.pet.ipet.scale_factor, config.pet.ipet.teacher_fraction) == (5, 0.25)


def test_ipet_from_zero_grows_to_the_1000_examples_of_the_paper() -> None:
    config = read("paper/ag_news_zero")
    assert not config.has_labels
    ipet = config.pet.ipet
    assert ipet is not None
    last = ipet.examples_per_class * ipet.scale_factor ** (ipet.generations - 1)
    assert last * len(config.task.labels) == 1000
    assert ipet.num_most_likely == 100, "from which 10 per class are sampled"
    assert num_submodels(config) == (1 + ipet.generations) * len(config.task.patterns)
    assert config.task == read("paper/ag_news").task


def test_fewclue_trains_20_epochs_and_keeps_the_best() -> None:
    for name, num_labeled in (("paper/eprstmt", 32), ("paper/tnews", 240)):
        config = read(name)
        training = config.pet.training
        assert training is not None
        assert training.early_stopping is not None
        assert config.data.dev is not None
        assert training.num_steps(num_labeled) == 20 * training.early_stopping.eval_steps, "one evaluation per epoch"
        assert training.early_stopping.patience >= 20, "training never stops early"


def test_multirc_knows_the_question_of_each_answer() -> None:
    data = read("paper/multirc").data
    assert all(source.question == "idx.question" for source in data.sources.values())


PAIR = {"premise": "It rains.", "hypothesis": "It is wet.", "idx": 3}
COPA_ROW = {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "idx": 3}
WIC_ROW = {"word": "bank", "sentence1": "A bank.", "sentence2": "The banks.", "idx": 3, "start1": 2, "version": 1.1}
TNEWS_ROW = {"label": 102, "label_desc": "news_entertainment", "sentence": "票房冠军", "keywords": "", "id": 3}


@pytest.mark.parametrize(
    ("name", "row", "label"),
    [
        ("paper/boolq", {"question": "is it", "passage": "It is.", "idx": 3, "label": True}, "True"),
        ("paper/cb", {**PAIR, "label": "neutral"}, "neutral"),
        ("paper/rte", {**PAIR, "label": "not_entailment"}, "not_entailment"),
        ("paper/copa", {**COPA_ROW, "label": 0}, "choice1"),
        ("paper/copa", {**COPA_ROW, "label": 1}, "choice2"),
        ("paper/wic", {**WIC_ROW, "label": False}, "False"),
        ("paper/eprstmt", {"id": 3, "sentence": "很满意.", "label": "Positive"}, "Positive"),
        ("paper/tnews", TNEWS_ROW, "news_entertainment"),
    ],
)
def test_rows_of_the_published_files_can_be_read(name: str, row: dict[str, Any], label: str, tmp_path: Path) -> None:
    config = read(name)
    file = tmp_path / "train.json"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert config.data.train is not None
    assert config.data.unlabeled is not None
    update = {"asset": str(file)}
    [example] = iter_examples(config.data.train.model_copy(update=update), config.task.labels)
    [unlabeled] = iter_examples(config.data.unlabeled.model_copy(update=update), None)
    assert example.label == label
    assert example.fields == unlabeled.fields == {field: row[field] for field in config.task.fields}


def test_plans_use_no_network(tmp_path: Path) -> None:
    caches = [tmp_path / "assets", tmp_path / "hub"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CLOZELINE_CACHE": str(caches[0]),
        "HF_HOME": str(caches[1]),
        "HF_HUB_OFFLINE": "1",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    }
    command = [sys.executable, "-c", PLAN_ALONE, str(tmp_path / "store"), *PAPER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = {path.relative_to(tmp_path).parts[:2] for cache in caches for path in files_in(cache)}
    assert found <= {("assets", "code")}, "only what the code of this program contains is kept"
    assert done.stdout.count("soft_labels") >= len(PAPER)


def test_find_recipe_accepts_the_full_name_and_its_last_part() -> None:
    assert find_recipe("paper/rte") == find_recipe("rte") == RECIPES / "paper" / "rte.yaml"
    assert find_recipe("demo") == RECIPES / "demo.yaml"


@pytest.mark.parametrize("typed", ["paper/ag_nwes", "ag_nwes"])
def test_find_recipe_suggests_the_most_similar_name(typed: str) -> None:
    with pytest.raises(RecipeError, match=f"no recipe '{typed}'") as caught:
        find_recipe(typed)
    assert caught.value.remedy == "Did you mean 'paper/ag_news'?"


def test_find_recipe_needs_the_full_name_if_the_last_part_is_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("top", "one/same", "two/same", "one/top"):
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text("name: x\n")
    monkeypatch.setattr(recipe_module, "RECIPES", tmp_path)
    assert find_recipe("top") == tmp_path / "top.yaml"
    assert find_recipe("two/same") == tmp_path / "two" / "same.yaml"
    with pytest.raises(RecipeError, match="several recipes are called 'same'") as caught:
        find_recipe("same")
    assert "one/same, two/same" in caught.value.remedy
