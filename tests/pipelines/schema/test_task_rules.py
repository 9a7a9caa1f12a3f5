"""A blank label word and a misspelled field are errors of every command that reads the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig, ScoreRecipe
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError
from tests.support.recipe_files import write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.mark.parametrize("model", [PipelineConfig, ScoreRecipe])
@pytest.mark.parametrize(
    ("old", "new", "key", "problem", "remedy"),
    [
        (
            "fresh: [good, great]",
            "fresh: [good, '']",
            "task.verbalizer.fresh",
            "label word of 'fresh' is empty",
            "Write",
        ),
        ("verdict: [dull]", "verdict: [' ']", "task.verbalizer.rotten.verdict", "of 'rotten' is empty", "remove it"),
        ("{text} It was {mask}.", "{txet} {mask}", "data.pool.fields", "the field 'txet'", "Did you mean {text}?"),
        ("{mask}: {text}", "{mask}: {body}", "data.pool.fields", "the field 'body'", "Add it (body: COLUMN)"),
    ],
)
def test_a_wrong_task_is_an_error_with_its_line(
    old: str, new: str, key: str, problem: str, remedy: str, model: type[PipelineConfig | ScoreRecipe], recipe: Path
) -> None:
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(InputError) as caught:
        read_recipe(recipe, model, ignore_others=model is ScoreRecipe)
    assert caught.value.key == key
    assert problem in caught.value.problem and remedy in caught.value.remedy
    assert caught.value.where.startswith(f"{recipe}:")


def test_other_tasks_are_checked_too(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("quote: [review]", "quote: ['']"))
    with pytest.raises(InputError) as caught:
        read_recipe(recipe, PipelineConfig)
    assert caught.value.key == "prompts.tasks.1.task.verbalizer.quote"
