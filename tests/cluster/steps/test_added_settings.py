"""Tests of settings that a new version of the code has, and that a recipe does not set."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from cluster.canonical_json import flatten, plain
from cluster.steps.added_settings import is_added_default


class Training(BaseModel):
    steps: int = 10
    decay: float = 0.0


class Stage(BaseModel):
    labels: tuple[str, ...] = ()
    training: Training = Training()
    contrastive: Training | None = None
    members: dict[str, Training] = {}
    tasks: tuple[Training, ...] = ()


ONE = Stage(members={"b": Training()})


def key(config: BaseModel) -> dict[str, object]:
    return flatten(plain(config.model_dump()), "config")


def without(config: BaseModel, *names: str) -> dict[str, object]:
    """Returns the key of code that does not have some settings."""
    return {name: value for name, value in key(config).items() if name not in names}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Stage(), "config.training.decay"),
        (Stage(labels=("a",)), "config.contrastive"),
        (Stage(contrastive=Training(steps=3)), "config.contrastive.decay"),
        (Stage(members={"a": Training()}), "config.members.a.decay"),
        (Stage(tasks=(Training(), Training(steps=2))), "config.tasks.1.decay"),
    ],
)
def test_a_setting_with_its_default_is_added(config: Stage, name: str) -> None:
    assert name in key(config)
    assert is_added_default(name, without(config, name), config)


def test_a_section_with_its_defaults_is_added() -> None:
    before = without(Stage(), "config.training.steps", "config.training.decay")
    assert is_added_default("config.training.steps", before, Stage())


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (without(Stage(), "config.training.decay"), Stage(training=Training(decay=0.1)), "config.training.decay"),
        (key(Stage(training=Training(steps=2))), Stage(), "config.training.steps"),
        (key(Stage()), Stage(contrastive=Training()), "config.contrastive.steps"),
        (key(Stage()), Stage(members={"a": Training()}), "config.members.a.steps"),
        (key(ONE), Stage(members={**ONE.members, "a": Training()}), "config.members.a.steps"),
        (key(Stage(tasks=(Training(),))), Stage(tasks=(Training(), Training())), "config.tasks.1.steps"),
        (key(Stage()), Stage(labels=("a",)), "config.labels.0"),
        ({}, Stage(), "inputs.data"),
    ],
)  # fmt: skip
def test_a_change_of_a_recipe_is_no_added_setting(before: dict[str, object], after: Stage, name: str) -> None:
    assert not is_added_default(name, before, after)
