"""Paths of a recipe are relative to its folder; paths of the command line are relative to the current one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig, ScoreRecipe
from pipelines.schema.loader import read_recipe
from pipelines.schema.relative_paths import absolute_ref, relative_ref, with_relative_paths
from tests.support.recipe_files import write_recipe

PIN = "#sha256=" + "ab" * 32


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("d/x.csv", "/r/d/x.csv"),
        ("./x.csv", "/r/x.csv"),
        (f"x.csv{PIN}", f"/r/x.csv{PIN}"),
        ("models/m.zip!m/encoder", "/r/models/m.zip!m/encoder"),
        ("m.zip.001+m.zip.002!.", "/r/m.zip.001+/r/m.zip.002!."),
        (f"p{{1..6}}.bin=>m.gguf{PIN}", f"/r/p{{1..6}}.bin=>m.gguf{PIN}"),
        (f"a.bin{PIN}+pypi:b==1/c.bin=>m.gguf{PIN}", f"/r/a.bin{PIN}+pypi:b==1/c.bin=>m.gguf{PIN}"),
        ("a+b.csv", "/r/a+b.csv"),
    ],
)
def test_local_paths_become_absolute(ref: str, expected: str) -> None:
    assert absolute_ref(ref, Path("/r")) == expected
    assert absolute_ref(expected, Path("/elsewhere")) == expected


@pytest.mark.parametrize("ref", ["pypi:m==1.0/m/x.csv", "hf:org/name@main", "s3://bucket/x.csv", "~/x.csv", "/x.csv"])
def test_other_references_are_unchanged(ref: str) -> None:
    assert absolute_ref(ref, Path("/r")) == relative_ref(ref, Path("r")) == ref


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose paths are relative."""
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace(f"{tmp_path}/", ""))
    return path


def test_a_recipe_is_the_same_in_every_current_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "data.pool.asset": f"{tmp_path}/films.jsonl",
        "backbone.asset": f"{tmp_path}/backbone",
        "students.small.asset": f"{tmp_path}/backbone",
        "prompts.tasks.1.data.pool.asset": f"{tmp_path}/kinds.jsonl",
    }
    assert read_recipe(recipe, PipelineConfig).assets == expected
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path(recipe.name), PipelineConfig).assets == expected
    score = read_recipe(Path(recipe.name), ScoreRecipe, ignore_others=True)
    assert score.backbone is not None and score.backbone.asset == f"{tmp_path}/backbone"


def test_a_path_in_an_override_is_relative_to_the_current_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    overrides = ("data.pool.asset=mine.jsonl", "students.small={asset: encoder, max_length: 8}")
    assets = read_recipe(recipe, PipelineConfig, overrides).assets
    assert assets["data.pool.asset"] == f"{tmp_path}/here/mine.jsonl"
    assert assets["students.small.asset"] == f"{tmp_path}/here/encoder"
    assert assets["backbone.asset"] == f"{tmp_path}/backbone"


def test_a_new_recipe_has_paths_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sections = {
        "data": {"train": {"asset": "d/x.csv", "label_map": {"asset": "d/x.csv"}}, "unlabeled": [{"asset": "/u"}]}
    }
    written = with_relative_paths(sections, Path("recipes/mine"))
    assert written["data"]["train"] == {"asset": "../../d/x.csv", "label_map": {"asset": "d/x.csv"}}
    assert written["data"]["unlabeled"] == [{"asset": "/u"}]
    assert with_relative_paths(sections, Path()) == sections
