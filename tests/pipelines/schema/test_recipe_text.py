"""A recipe that would take gigabytes, or break later, is an error of one sentence."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.schema.locations import RecipeError
from pipelines.schema.recipe_text import MAX_CHARACTERS, MAX_LEVELS, parse_values
from tests.support.recipe_files import write_recipe

LETTERS = "abcdefghi"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(LETTERS)
)
"""81 lists of 9 lists of ... : 9 ** 9 values."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def error_of(path: Path, text: str) -> RecipeError:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, PipelineConfig)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_aliases_may_not_stand_for_many_values(recipe: Path) -> None:
    text = recipe.read_text()
    tracemalloc.start()
    error = error_of(recipe, BOMB + text)
    assert "aliases stand for more than 100,000 values" in error.problem
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_few_aliases_are_fine(recipe: Path) -> None:
    text = recipe.read_text().replace(
        "training: {learning_rate: 0.001, epochs: 6}", "training: &t {learning_rate: 0.001, steps: 9}"
    )
    recipe.write_text(text.replace("training: {learning_rate: 0.001, steps: 20}", "training: *t"))
    config = read_recipe(recipe, PipelineConfig)
    assert config.distill.training == config.pet.training if config.pet else False


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [*a]\n", "an alias refers to a value that contains it"),
        ("a: " + "[" * (MAX_LEVELS + 1) + "]" * (MAX_LEVELS + 1) + "\n", "more than 50 levels"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "more than 50 levels"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "more than 50 levels"),
        ("seed: " + "9" * 5000 + "\n", "thousands of digits"),
        ("seed: 2020-13-45\n", "a value cannot be read"),
        ("seed: \0\n", "not YAML"),
        ("# " + "x" * MAX_CHARACTERS + "\n", "characters, more than 524,288"),
        ("seed: !!python/object:os.system x\n", "not YAML"),
    ],
    ids=lambda value: value[:12],
)
def test_a_text_beyond_the_limits_is_an_error(text: str, problem: str, recipe: Path) -> None:
    rest = "" if text.startswith("{") else recipe.read_text()
    assert problem in error_of(recipe, text + rest).problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (".inf", "the number is infinite"),
        ("-.inf", "the number is infinite"),
        ("1.0e+999", "the number is infinite"),
        (".nan", "NaN is not a number"),
        ("99999999999999999999", "the number is larger than"),
        ('"\\ud800"', "half a surrogate pair"),
    ],
)
def test_a_value_that_no_step_can_use_is_an_error_with_its_line(value: str, problem: str, recipe: Path) -> None:
    text = recipe.read_text()
    error = error_of(recipe, text.replace("learning_rate: 0.001, epochs", f"learning_rate: {value}, epochs"))
    assert problem in error.problem
    assert error.key == "pet.training.learning_rate"
    assert error.where == f"{recipe}:{1 + text[: text.index('epochs')].count(chr(10))}"


def test_an_override_has_the_same_limits(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="more than 50 levels"):
        read_recipe(recipe, PipelineConfig, ("seed=" + "[" * 99 + "]" * 99,))
    with pytest.raises(RecipeError, match="infinite") as caught:
        read_recipe(recipe, PipelineConfig, ("pet.training.learning_rate=.inf",))
    assert caught.value.where == "-o"


def test_json_keeps_its_numbers_and_escapes() -> None:
    assert parse_values('{"a":\t1e-5, "b": "\\ud83d\\ude00"}') == {"a": 1e-5, "b": "😀"}
