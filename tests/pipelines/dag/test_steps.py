"""`make_step`: seeds, assets and inputs of one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.steps.step import Step
from pipelines.dag.steps import LIGHTWEIGHT, make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.cache import identity
from stages.common.config import Config
from stages.common.data.config import Source
from stages.common.models.encoders.config import EncoderConfig
from stages.common.seeds import derive_seed
from stages.learning_curve.config import LearningCurveConfig
from stages.learning_curve.train_subsets.config import TrainSubsetConfig
from stages.soft_labels.sharded.config import ShardsConfig

RECIPE = read_recipe(find_recipe("smoke"), PipelineConfig)


class Sources(Config):
    """A config with assets at several depths."""

    encoders: dict[str, EncoderConfig]
    shards: ShardsConfig


def make(config: Config, **settings: object) -> Step:
    return make_step(RECIPE, "probe/x", kind="probe", run="stages.probe.stage:run", config=config, **settings)  # type: ignore[arg-type]


def test_make_step_derives_a_seed_that_is_not_set() -> None:
    config = TrainSubsetConfig(labels=("a", "b"), shots=1)
    assert make(config).config == config.model_copy(update={"seed": derive_seed(RECIPE.seed, "probe/x")})


def test_make_step_keeps_a_seed_that_is_set() -> None:
    config = TrainSubsetConfig(labels=("a", "b"), shots=1, seed=0)
    assert make(config).config is config


def test_make_step_collects_assets_from_the_config(tmp_path: Path) -> None:
    for name in ("part-0.jsonl", "part-1.jsonl", "model"):
        (tmp_path / name).write_text(name)
    config = Sources(
        encoders={"small": EncoderConfig(asset=str(tmp_path / "model")), "hub": EncoderConfig(asset="hf:org/model")},
        shards=ShardsConfig(source=Source(asset=str(tmp_path))),
    )
    assets = make(config, shards="shards.source.asset").assets
    assert set(assets) == {
        "encoders.small.asset",
        "encoders.hub.asset",
        "shards.source.asset.part-0",
        "shards.source.asset.part-1",
    }
    assert assets["encoders.small.asset"] == identity(str(tmp_path / "model"))
    assert assets["encoders.hub.asset"] == "hf:org/model"


def test_make_step_leaves_out_inputs_that_are_missing() -> None:
    upstream = make(LearningCurveConfig(methods=()))
    step = make(
        LearningCurveConfig(methods=()), inputs={"one": upstream, "none": None, "empty": [], "more": [upstream]}
    )
    assert step.inputs == {"one": upstream, "more": (upstream,)}
    assert step.resources is LIGHTWEIGHT


def test_make_step_sets_kind_and_labels() -> None:
    step = make(LearningCurveConfig(methods=()), row="probe/x", member="probe/x")
    assert (step.kind, step.labels) == ("probe", {"row": "probe/x", "member": "probe/x"})
    with pytest.raises(ValueError, match="'oracle' is not a kind of step"):
        make_step(RECIPE, "x", kind="oracle", run="a:b", config=LearningCurveConfig(methods=()))
