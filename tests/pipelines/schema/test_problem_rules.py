"""What needs one label per example is an error of a recipe with several, with the key and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.dag import fewshot
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.config import MULTI_LABEL
from stages.splits.config import SplitsConfig

RECIPE = f"""\
name: topics
task: {{name: topics, labels: [money, sports], problem_type: {MULTI_LABEL}, patterns: {{topic: "{{text}} {{mask}}"}}}}
data:
  train: {{asset: train.csv, label: topics, label_separator: ";"}}
  test: {{asset: test.jsonl, label: topics}}
  unlabeled: {{asset: more.jsonl}}
members: {{words: {{kind: tfidf}}}}
students: {{words: {{kind: tfidf}}}}
label_bias: frequencies
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("train.csv", "test.jsonl", "more.jsonl"):
        (tmp_path / name).touch()
    path = tmp_path / "topics.yaml"
    path.write_text(RECIPE)
    return path


def test_problem_type_reaches_all_steps(recipe: Path) -> None:
    config = read_recipe(recipe, PipelineConfig)
    steps = {step.name: step.config for step in fewshot.build_steps(config)}
    assert isinstance(steps["data/topics"], SplitsConfig)
    for name in ("data/topics", "tfidf/words", "soft_labels", "distill/words/0", "report"):
        assert steps[name].model_dump()["problem_type"] == MULTI_LABEL, name


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("backbone={asset: x}", "task.verbalizer={money: [a], sports: [b]}"), "backbone.asset"),
        (("members.lm={kind: llm, url: 'http://localhost:8000/v1', model: m}",), "members.lm"),
        (("data.pool={asset: train.csv, label: topics}",), "data.pool"),
        (("data.annotated={asset: train.csv, label: topics}",), "data.annotated"),
        (("data.conflicts=soft",), "data.conflicts"),
        (("class_weights=balanced",), "class_weights"),
        (("ensemble.weights=held_out",), "ensemble.weights"),
        (("ensemble.weights=label_model",), "ensemble.weights"),
        (("ensemble.calibration=unlabeled",), "ensemble.calibration"),
        (("ensemble.label_frequencies=unlabeled",), "ensemble.label_frequencies"),
        (("unlabeled_shards={source: {asset: .}}",), "unlabeled_shards"),
        (("learning_curve={shots: [1, 2], members: [words]}",), "learning_curve"),
    ],
)
def test_what_needs_one_label_is_an_error(overrides: tuple[str, ...], key: str, recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, PipelineConfig, list(overrides))
    assert caught.value.key == key, caught.value
    assert MULTI_LABEL in caught.value.problem and "single_label_classification" in caught.value.remedy


def test_separator_needs_several_labels(recipe: Path) -> None:
    content = yaml.safe_load(RECIPE)
    del content["task"]["problem_type"], content["label_bias"]
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match="label_separator is for several labels") as caught:
        read_recipe(recipe, PipelineConfig)
    assert caught.value.key == "data.train.label_separator"


def test_thresholds_need_several_labels(recipe: Path) -> None:
    content = yaml.safe_load(RECIPE)
    del content["task"]["problem_type"], content["data"]["train"]["label_separator"]
    recipe.write_text(yaml.safe_dump({**content, "label_bias": "frequencies"}))
    with pytest.raises(RecipeError, match="frequencies is for several labels") as caught:
        read_recipe(recipe, PipelineConfig)
    assert caught.value.key == "label_bias"
