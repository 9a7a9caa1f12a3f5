"""`plan` checks the files that are here as a run does, and fetches nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.preflight.checks import check_local
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError

PACKAGE = "pypi:no-such-package-of-clozeline==1.0/model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plan(recipe: Path, *more: str) -> str:
    """Returns what `plan` prints; raises its error, for which the command exits with 2."""
    result = CliRunner().invoke(app, ["plan", str(recipe), "--store", str(recipe.parent / "store"), *more])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("films.jsonl", "nofile.jsonl", "data.pool.asset", "does not exist"),
        ("label: category", "label: categroy", "data.pool", "line 1: there is no column 'categroy'"),
        ("shots: 4", "shots: 500", "data.shots", "shots is 500 per class, but the pool has"),
        ("[rotten, fresh]", "[rotten, ripe]", "task.verbalizer.fresh", "not in labels"),
        ("label: category", "label: category, label_map: {fresh: ripe}", "data.pool", "the label 'fresh' is not in"),
        ("label: kind}", "label: sort}", "prompts.tasks.1.data.pool", "there is no column 'sort'"),
        ("32\npet", "65\npet", "students.small.max_length", "more than the 64 positions"),
    ],
)
def test_plan_finds_what_a_run_would_find(old: str, new: str, key: str, problem: str, recipe: Path) -> None:
    text = recipe.read_text()
    if "label_map" in new:
        old, new = "    label: category", "    label: category\n    label_map: {fresh: ripe}"
    assert text.count(old) == 1
    recipe.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        plan(recipe)
    assert caught.value.key == key
    assert problem in caught.value.problem
    assert caught.value.where.startswith(f"{recipe}:")


def test_a_file_that_passed_is_read_again_when_it_changes(recipe: Path, cache: Path) -> None:
    data = recipe.parent / "films.jsonl"
    stat = data.stat()
    plan(recipe)
    with data.open("r+") as file:
        file.write('{"text": "film number 0", "category": "rotted"}')
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.stat().st_size == stat.st_size
    plan(recipe)
    data.touch()
    with pytest.raises(InputError, match="the label 'rotted' is not in labels"):
        plan(recipe)
    assert len(list((cache / "checked").iterdir())) == 1, "a failure is not remembered"


def test_another_setting_reads_the_files_again(recipe: Path) -> None:
    plan(recipe)
    with pytest.raises(InputError, match="shots is 400 per class"):
        plan(recipe, "-o", "data.shots=400")


def test_plan_works_without_a_cache_folder(recipe: Path, cache: Path) -> None:
    cache.write_text("a file where a folder must be")
    with pytest.raises(InputError, match="shots is 400 per class"):
        plan(recipe, "-o", "data.shots=400")


def test_what_is_not_here_is_listed_and_not_fetched(recipe: Path) -> None:
    others = ("-o", f"backbone.asset={PACKAGE}", "-o", "data.unlabeled={asset: hf:org/texts}")
    printed = plan(recipe, *others)
    assert f"not fetched: backbone.asset, {PACKAGE}" in printed
    assert "not fetched: data.unlabeled.asset, hf:org/texts" in printed
    assert "films.jsonl" not in printed


def test_the_rest_is_checked_if_a_model_is_not_here(recipe: Path) -> None:
    config = read_recipe(recipe, PipelineConfig, (f"backbone.asset={PACKAGE}", "data.shots=500"))
    with pytest.raises(InputError, match="shots is 500 per class"):
        check_local(config)
    assert check_local(read_recipe(recipe, PipelineConfig)).not_fetched == {}


def test_few_unlabeled_texts_are_a_warning_each_time(recipe: Path, cache: Path) -> None:
    few = ("-o", "data.unlabeled_size=3")
    warning = "warning: students learn from 3 unlabeled texts; with fewer than 50 a supervised"
    assert warning in plan(recipe, *few)
    (record,) = (cache / "checked").iterdir()
    written = record.stat().st_mtime_ns
    assert warning in plan(recipe, *few), "the outcome is remembered with its warnings"
    assert record.stat().st_mtime_ns == written
    none = ("-o", "data.unlabeled_size=0", "-o", "baseline={training: {learning_rate: 0.001, steps: 1}}")
    assert "students learn from" not in plan(recipe, *none)


def test_an_empty_unlabeled_set_is_an_error(recipe: Path) -> None:
    source = f"{{asset: {recipe.parent / 'films.jsonl'}, label: category}}"
    with pytest.raises(InputError, match="no text is left for the unlabeled set") as caught:
        plan(recipe, "-o", f"data.train={source}", "-o", f"data.test={source}")
    assert caught.value.key == "data.pool"
