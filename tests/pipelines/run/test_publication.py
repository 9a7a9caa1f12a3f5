"""What a run publishes of its recipe."""

from __future__ import annotations

from pathlib import Path

from pipelines.run.publication import own_keys
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe


def test_own_keys_are_those_of_the_recipe_and_its_overrides(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    recipe = tmp_path / "films.yaml"
    recipe.write_text("""
name: films
task: {name: films, labels: [bad, good], patterns: {p: "{text} It was {mask}."}}
data:
  train: {asset: train.csv, fields: {text: text}, label: label}
students: {words: {kind: tfidf}}
baseline: {}
""")
    assert own_keys(read_recipe(recipe, PipelineConfig, ["baseline.seeds=[3]"])) == {
        "name": "films",
        "task.name": "films",
        "task.labels": ["bad", "good"],
        "task.patterns.p": "{text} It was {mask}.",
        "data.train.asset": str(tmp_path / "train.csv"),
        "data.train.fields.text": "text",
        "data.train.label": "label",
        "students.words.kind": "tfidf",
        "baseline.seeds": [3],
    }


def test_own_keys_of_a_shipped_recipe_leave_out_defaults() -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig)
    assert len(own_keys(config)) < 60 < len(own_keys(PipelineConfig.model_validate(config.model_dump(mode="json"))))
