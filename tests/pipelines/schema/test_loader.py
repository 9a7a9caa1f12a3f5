"""Reads recipes. Every error has file, line, key and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import RECIPES, find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.patterns.config import Task

TEXT = """\
name: films
task:
  name: films
  labels: [rotten, fresh]
  patterns:
    review: "{text} It was {mask}."
    verdict: "{mask}: {text}"
  verbalizer:
    rotten: {review: [bad], verdict: [dull]}
    fresh: [good, great]
data:
  pool: {asset: films.csv, label: category}
  shots: 4
backbone: {asset: models/bert}
students:
  small:
    asset: models/student
pet:
  seeds: [0, 1]
  training: {learning_rate: 0.001, epochs: 6}
distill:
  training:
    learning_rate: 5e-5
    steps: 20
prompts:
  methods: {random: {init: {kind: normal}}}
  tasks:
    - pattern: review
    - pattern: kind
      task:
        name: kinds
        labels: [plot, quote]
        patterns: {kind: "{text} is a {mask}"}
        verbalizer: {plot: [story], quote: [review]}
      data:
        pool: {asset: kinds.csv, label: kind}
  training: {learning_rate: 0.01, steps: 5}
"""


def write(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "films.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path, *overrides: str, model: type[BaseModel] = PipelineConfig) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, model, overrides)
    assert caught.value.remedy
    return caught.value


def line_of(text: str, part: str) -> int:
    """Returns the line, counted from 1, that contains `part`."""
    [number] = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    return number


def test_read_recipe_returns_a_config(tmp_path: Path) -> None:
    config = read_recipe(write(tmp_path), PipelineConfig)
    assert config.task.labels == ("rotten", "fresh")
    assert config.task.words("review") == {"rotten": ("bad",), "fresh": ("good", "great")}
    assert config.pet.seeds == (0, 1)
    assert config.distill.training.learning_rate == 5e-5
    assert config.prompts is not None
    assert config.prompts.tasks[1].task is not None
    assert config.seed == 0


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_read_recipe_accepts_json(ascii_only: bool, indent: int | str | None, tmp_path: Path) -> None:
    values = yaml.safe_load(TEXT)
    values["task"]["patterns"]["review"] = "{text} 🎬 It was {mask}."
    values["distill"]["training"]["learning_rate"] = 5e-5
    path = tmp_path / "films.json"
    path.write_text(json.dumps(values, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    config = read_recipe(path, PipelineConfig)
    assert config.task.patterns["review"] == "{text} 🎬 It was {mask}."
    assert config == read_recipe(write(tmp_path, TEXT.replace("} It", "} 🎬 It")), PipelineConfig)


def test_errors_in_json_have_a_line(tmp_path: Path) -> None:
    text = json.dumps(yaml.safe_load(TEXT) | {"sead": 1}, indent=2)
    error = error_of(write(tmp_path, text))
    assert error.where == f"{tmp_path / 'films.yaml'}:{line_of(text, 'sead')}"
    assert error.remedy == "Did you mean 'seed'?"


@pytest.mark.parametrize(
    ("old", "new", "key", "problem", "remedy"),
    [
        ("pet:\n  seeds", "pet:\n  seedz", "pet.seedz", "unknown key 'seedz'", "Did you mean 'seeds'?"),
        ("name: films\ntask", "name: films\nptt: {}\ntask", "ptt", "unknown key 'ptt'", "Did you mean 'ppt'?"),
        ("epochs: 6", "epochz: 6", "pet.training.epochz", "unknown key", "Did you mean 'epochs'?"),
        ("shots: 4", "wibble: 4", "data.wibble", "unknown key 'wibble'", "shots"),
        ("    - pattern: review", "    - patern: review", "prompts.tasks.0.patern", "unknown key", "'pattern'"),
        ("label: kind}", "labell: kind}", "prompts.tasks.1.data.pool.labell", "unknown key", "'label'"),
        ("{kind: normal}}", "{kinds: normal}}", "prompts.methods.random.init.kinds", "unknown key", "'kind'"),
        ("    asset: models", "    max_length: 4\n    asset: models", "students.small.max_length", "greater", "tokens"),
        ("shots: 4", "shots: many", "data.shots", "valid integer", "Labeled examples per class"),
        ("seeds: [0, 1]", "seeds: [0, x]", "pet.seeds.1", "valid integer", ""),
        ("learning_rate: 5e-5", "learning_rate: -1", "distill.training.learning_rate", "greater than 0", "learning"),
        ("{kind: normal}", "{kind: norml}", "prompts.methods.random.init.kind", "'normal'", "sample_vocab (embeddings"),
        ("steps: 20", "steps: 20\n    epochs: 2", "distill.training", "both steps and epochs", "steps: 100"),
        ("asset: models/student", "max_length: 9", "students.small.asset", "missing", "Reference of the encoder"),
        ("    fresh: [good, great]\n", "", "task.verbalizer", "no word for label 'fresh'", "fresh: {"),
        ("fresh: [good", "frsh: [good", "task.verbalizer.frsh", "'frsh', which is not in labels", "spelling"),
        ("verdict: [dull]", "verdct: [dull]", "task.verbalizer.rotten.verdct", "'verdct', which is not", "verdict"),
        ("labels: [rotten, fresh]", "labels: [fresh, fresh]", "task.labels", "'fresh' is listed twice", "once"),
        ("labels: [rotten, fresh]", "labels: [rotten]", "task.labels", "at least 2", "All labels"),
        ("It was {mask}.", "It was.", "task.patterns.review", "has no {mask}", "exactly once"),
        ("{mask}: {text}", "{mask}: {mask}{text}", "task.patterns.verdict", "has 2 masks", "exactly once"),
        ("is a {mask}", "is a", "prompts.tasks.1.task.patterns.kind", "has no {mask}", "exactly once"),
        ("    - pattern: review", "    - pattern: revue", "prompts.tasks.0.pattern", "'revue'", "review, verdict"),
        ("label: category}", "lable: category}", "data.pool.lable", "unknown key 'lable'", "'label'"),
        ("{random: {init: {kind: normal}}}", "{ppt: {init: ppt}}", "prompts.methods", "no section ppt", "ppt: {...}"),
    ],
)  # fmt: skip
def test_read_recipe_names_the_line_of_an_error(
    old: str, new: str, key: str, problem: str, remedy: str, tmp_path: Path
) -> None:
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, new)
    error = error_of(write(tmp_path, text))
    assert error.key.startswith(key)
    assert problem in error.problem
    assert remedy in error.remedy
    file, _, line = error.where.rpartition(":")
    assert file == str(tmp_path / "films.yaml")
    shown = text.splitlines()[int(line) - 1]
    assert shown not in TEXT.splitlines() or shown.strip().removesuffix(":") in key.split("."), "names the changed line"
    assert str(error).startswith(f"{error.where}: {error.key}: ")


def test_read_recipe_names_the_file_for_a_missing_section(tmp_path: Path) -> None:
    error = error_of(write(tmp_path, TEXT.replace("students:\n  small:\n    asset: models/student\n", "")))
    assert (error.key, error.problem) == ("students", "the key is missing.")
    assert error.where == str(tmp_path / "films.yaml")
    assert "Final classifiers of several sizes" in error.remedy


@pytest.mark.parametrize("labels", ["[no, yes]", "[0, 1]", "[1.5, 2.5]"])
def test_labels_that_yaml_reads_as_another_type_must_be_quoted(labels: str, tmp_path: Path) -> None:
    """YAML reads no as false and 0 as a number."""
    error = error_of(write(tmp_path, TEXT.replace("[rotten, fresh]", labels)))
    assert error.key == "task.labels.0"
    assert "valid string" in error.problem
    assert "quotes" in error.remedy
    assert error.where.endswith(":4")


def test_label_words_that_yaml_reads_as_another_type_must_be_quoted(tmp_path: Path) -> None:
    error = error_of(write(tmp_path, TEXT.replace("fresh: [good, great]", "fresh: [yes]")))
    assert error.key == "task.verbalizer.fresh.0"
    assert "quotes" in error.remedy
    error = error_of(write(tmp_path, TEXT.replace("    fresh: [good", "    yes: [good")))
    assert error.key.startswith("task.verbalizer")
    assert "quotes" in error.remedy


def test_read_recipe_rejects_repeated_keys(tmp_path: Path) -> None:
    """YAML would keep the last one without a warning."""
    text = TEXT.replace("  shots: 4", "  shots: 4\n  shots: 400")
    error = error_of(write(tmp_path, text))
    assert error.where.endswith(f":{line_of(text, 'shots: 400')}")
    assert "'shots'" in error.problem
    assert error.key == "data.shots"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("name: films\n  task: x\n", 2, "not YAML"),
        ("name: 'films\n", 2, "not YAML"),
        ("- name\n- task\n", None, "not a mapping"),
        ("", None, "not a mapping"),
        ("{\"name\": \"films\",\n \"task\": }", None, ""),
    ],
)  # fmt: skip
def test_read_recipe_rejects_files_without_a_recipe(text: str, line: int | None, problem: str, tmp_path: Path) -> None:
    error = error_of(write(tmp_path, text))
    assert problem in error.problem
    assert error.where.startswith(str(tmp_path / "films.yaml"))
    if line:
        assert error.where.endswith(f":{line}")


def test_read_recipe_rejects_binary_files(tmp_path: Path) -> None:
    (tmp_path / "films.yaml").write_bytes(b"name: \xff\xfe")
    assert "cannot be read" in error_of(tmp_path / "films.yaml").problem


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("distill.training.learning_rate=1e-4", ("distill", "training", "learning_rate"), 1e-4),
        ("pet.seeds=[3,4]", ("pet", "seeds"), (3, 4)),
        ("pet.seeds.1=9", ("pet", "seeds"), (0, 9)),
        ("pet.lora.rank=2", ("pet", "lora", "rank"), 2),
        ("ensemble={weights: accuracy}", ("ensemble", "weights"), "accuracy"),
        ("prompts.tasks.1.task.patterns.kind={text}={mask}", ("prompts", "tasks"), None),
        ("prompts=null", ("prompts",), None),
    ],
)
def test_an_override_changes_one_value(override: str, path: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    if "{text}" in override:
        override = override.replace("={text}={mask}", '="{text}={mask}"')
    plain: Any = read_recipe(write(tmp_path), PipelineConfig)
    config: Any = read_recipe(write(tmp_path), PipelineConfig, [override])
    assert config != plain
    for name in path:
        config = getattr(config, name)
    if path == ("prompts", "tasks"):
        assert config[1].task.patterns == {"kind": "{text}={mask}"}
    else:
        assert config == value


def test_the_last_override_wins_and_the_file_is_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert read_recipe(path, PipelineConfig, ["seed=1", "seed=2"]).seed == 2
    assert path.read_text() == TEXT


def test_an_override_of_an_alias_does_not_change_its_anchor(tmp_path: Path) -> None:
    text = TEXT.replace("backbone: {asset", "backbone: &model {asset").replace(
        "small:\n    asset: models/student", "small: *model"
    )
    config = read_recipe(write(tmp_path, text), PipelineConfig, ["students.small.max_length=9"])
    assert (config.students["small"].max_length, config.backbone.max_length) == (9, 128)


@pytest.mark.parametrize(
    ("override", "problem", "remedy"),
    [
        ("seed", "is not an override", "section.key=value"),
        ("=7", "is not an override", "section.key=value"),
        ("name.x=7", "'name' is a single value", "Remove what follows"),
        ("name.x.y=7", "'name' is a single value", "Remove what follows"),
        ("pet.seeds.5=7", "2 entries", "Count from 0"),
        ("prompts.tasks.7.pattern=kind", "2 entries", "Count from 0"),
        ("pet.sedes=[1]", "unknown key 'sedes'", "Did you mean 'seeds'?"),
        ("pett.seeds=[1]", "unknown key 'pett'", "Did you mean 'pet'?"),
        ("pet.seeds=3", "not 3", "Seeds"),
        ("data.unlabeled=[{asset: x}, {aset: y}]", "unknown key 'aset'", "Did you mean 'asset'?"),
        ("data.unlabeled={aset: y}", "unknown key 'aset'", "Did you mean 'asset'?"),
        ("data.unlabeled=[]", "at least 1", "list of sources"),
        ("data.shots=-1", "greater than", "Labeled examples"),
        ("pet.training.steps=4", "both steps and epochs", "steps"),
        ("seed=[1", "'[1' is not YAML", "quotes"),
        ("task.patterns.review=no mask", "has no {mask}", "exactly once"),
    ],
)
def test_read_recipe_rejects_wrong_overrides(override: str, problem: str, remedy: str, tmp_path: Path) -> None:
    error = error_of(write(tmp_path), override)
    assert problem in error.problem
    assert remedy in error.remedy
    assert "-o" in str(error), "names the option, not the file"


class OnlyTask(BaseModel, extra="forbid"):
    """The part of a recipe that `score` reads."""

    task: Task = Field(description="The task.")


def test_read_recipe_can_ignore_other_sections(tmp_path: Path) -> None:
    task = read_recipe(write(tmp_path), OnlyTask, ignore_others=True).task
    assert task.name == "films"
    assert read_recipe(write(tmp_path, TEXT.partition("data:")[0]), OnlyTask, ignore_others=True).task == task
    assert error_of(write(tmp_path), model=OnlyTask).problem == "unknown key 'name'."


def test_find_recipe_accepts_names_and_paths(tmp_path: Path) -> None:
    assert find_recipe("demo") == RECIPES / "demo.yaml"
    assert find_recipe(str(write(tmp_path))) == tmp_path / "films.yaml"
    with pytest.raises(RecipeError, match="no recipe 'dmeo'") as caught:
        find_recipe("dmeo")
    assert caught.value.remedy == "Did you mean 'demo'?"
    with pytest.raises(RecipeError) as caught:
        find_recipe("nothing/like/it.yaml")
    assert "demo" in caught.value.remedy


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_have_the_name_of_their_file(path: Path) -> None:
    assert read_recipe(path, PipelineConfig).name == path.stem
