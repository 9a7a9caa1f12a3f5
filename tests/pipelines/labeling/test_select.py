"""`select` writes texts next to a recipe, which reads them when they have a label."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.labeling.label_file import LabelFile
from pipelines.run.request import check_cached, load_request
from stages.common.errors import InputError
from stages.splits.config import SplitsConfig
from stages.splits.stage import Split, sample_splits

RECIPE = """# a recipe with comments
name: tickets
task:
  name: tickets
  labels: [bug, money]
  patterns: {topic: "{text} {mask}"}
data:  # files
  train: {asset: train.jsonl, fields: {text: text}, label: label}
  unlabeled: {asset: unlabeled.jsonl, fields: {text: text}}
  test_size: 4
members: {words: {kind: tfidf}}
students: {words: {kind: tfidf}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with 12 labeled and 30 unlabeled texts of two kinds."""
    texts = [("the app crashes", "bug"), ("the invoice is wrong", "money")]
    train = [{"text": f"{text} today {n}", "label": label} for n in range(6) for text, label in texts]
    unlabeled = [{"text": f"{text} again {n}"} for n in range(15) for text, _ in texts]
    for name, rows in (("train", train), ("unlabeled", unlabeled)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "tickets.yaml"
    path.write_text(RECIPE)
    return path


def select(recipe: Path, *options: str) -> str:
    command = ["select", str(recipe), "--store", str(recipe.parent / "store"), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False).stdout


def splits_of(recipe: Path) -> Split:
    config = load_request(str(recipe), None, recipe.parent / "store").config
    return sample_splits(SplitsConfig(data=config.data, labels=config.task.labels, fields=config.task.fields, seed=3))


def test_selected_texts_join_the_labeled_set_when_they_have_a_label(recipe: Path) -> None:
    before = splits_of(recipe)
    output = select(recipe, "-n", "4")
    assert "4 texts, which are typical of all" in output
    file = recipe.parent / "tickets.labels.csv"
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["label"] for row in rows} == {""}
    assert {"crashes" in row["text"] for row in rows} == {True, False}, "both kinds"
    changed = recipe.read_text()
    assert [line for line in changed.splitlines() if "annotated" not in line] == RECIPE.splitlines()
    assert yaml.safe_load(changed)["data"]["annotated"]["asset"] == "tickets.labels.csv"
    waiting = splits_of(recipe)
    assert (waiting.train, waiting.test, waiting.unlabeled) == (before.train, before.test, before.unlabeled)
    check_cached(load_request(str(recipe), None, recipe.parent / "store"))

    labeled = LabelFile.open(file)
    labeled.rows[1]["label"] = "bug"
    labeled.write()
    after = splits_of(recipe)
    assert after.test == before.test
    assert [item.fields["text"] for item in after.train[len(before.train) :]] == [rows[1]["text"]]
    assert rows[1]["text"] not in [item.fields["text"] for item in after.unlabeled]
    assert len(after.unlabeled) == len(before.unlabeled) - 1

    assert "3 texts, which" in select(recipe, "-n", "3")
    again = LabelFile.open(file)
    assert len(again.rows) == len(again.keys()) == 7
    assert again.num_labeled == 1
    assert recipe.read_text() == changed


def test_unknown_label_in_the_file_is_an_error(recipe: Path) -> None:
    select(recipe, "-n", "2")
    file = LabelFile.open(recipe.parent / "tickets.labels.csv")
    file.rows[0]["label"] = "bugg"
    file.write()
    with pytest.raises(InputError, match=r"line 2: the label 'bugg' is not in labels") as caught:
        check_cached(load_request(str(recipe), None, recipe.parent / "store"))
    assert "tickets.yaml" in str(caught.value)


def test_recipe_without_unlabeled_texts_is_an_error(recipe: Path) -> None:
    recipe.write_text("\n".join(line for line in RECIPE.splitlines() if "unlabeled" not in line) + "\n")
    with pytest.raises(InputError, match="no unlabeled texts"):
        select(recipe)


def test_after_a_run_the_models_decide(smoke_run: tuple[Path, str], tmp_path: Path) -> None:
    command = ["select", "smoke", "--store", str(smoke_run[0]), "-n", "5", "--output", str(tmp_path / "x.jsonl")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "about which the models of the last run are unsure or disagree" in result.stdout
    assert "data.annotated=" in result.stdout, "an included recipe is not changed"
    assert len(LabelFile.open(tmp_path / "x.jsonl").rows) == 5
