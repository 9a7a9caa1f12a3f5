"""`make_step`: seeds, assets and inputs of one step."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from cluster.errors import StepFailedError
from cluster.steps.plan import PlanState, plan
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from pipelines.dag.steps import LIGHTWEIGHT, make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.cache import identity, record_dataset_revision
from stages.common.assets.references import Asset
from stages.common.config import Config, asset_refs
from stages.common.data.config import Source
from stages.common.models.encoders.config import EncoderConfig
from stages.common.seeds import derive_seed
from stages.learning_curve.config import LearningCurveConfig
from stages.learning_curve.train_subsets.config import TrainSubsetConfig
from stages.soft_labels.sharded.config import ShardsConfig
from tests.support.asset_steps import RUN, AssetConfig
from tests.support.single_steps import run_alone

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


COMMIT, LATER = "a" * 40, "b" * 40


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the commit of the branch `main` of the model `org/model`, of which two are fetched."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--org--model"
    for commit in (COMMIT, LATER):
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "config.json").write_text(commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model / "refs" / "main"


def test_step_reads_the_commit_of_its_key_after_a_branch_has_moved(branch: Path, store: Store) -> None:
    config = AssetConfig(asset="hf:org/model")
    step = make_step(RECIPE, "probe/x", kind="probe", run=RUN, config=config)
    pinned = f"hf:org/model@{COMMIT}"
    assert step.assets == {"asset": pinned} and step.files == {pinned: pinned}
    branch.write_text(LATER)
    later = make_step(RECIPE, "probe/x", kind="probe", run=RUN, config=config)
    (line,) = plan([step], store)
    outcome = run_alone(line, store)
    assert isinstance(outcome, Manifest), outcome
    assert outcome.result == {"read": COMMIT}
    (line,) = plan([later], store)
    assert line.state is PlanState.RUN, "the later commit has another key"
    outcome = run_alone(line, store)
    assert isinstance(outcome, Manifest) and outcome.result == {"read": LATER}


def test_commit_that_is_edited_while_a_step_runs_is_not_committed(branch: Path, store: Store) -> None:
    config = AssetConfig(asset="hf:org/model", text="edited")
    step = make_step(RECIPE, "probe/x", kind="probe", run=RUN, config=config)
    (line,) = plan([step], store)
    outcome = run_alone(line, store)
    assert isinstance(outcome, StepFailedError)
    assert "config.json was written while the step ran" in outcome.error


def test_make_step_reads_the_commit_of_a_dataset_that_was_used(branch: Path) -> None:
    for name in ("data", "model"):
        record_dataset_revision(Asset.parse(f"hf:org/{name}"), LATER)
    config = Sources(
        encoders={"hub": EncoderConfig(asset="hf:org/model")},
        shards=ShardsConfig(source=Source(asset="hf:org/model")),
    )
    step = make(config)
    refs = {"encoders.hub.asset": f"hf:org/model@{COMMIT}", "shards.source.asset": f"hf:org/model@{LATER}"}
    assert asset_refs(step.config) == refs == step.assets, "a dataset and a model may have the same name"
    assert list(step.files) == [refs["encoders.hub.asset"]]
    other = Sources(encoders={}, shards=ShardsConfig(source=Source(asset="hf:org/other")))
    assert make(other).assets == {"shards.source.asset": "hf:org/other"}, "it was not used yet"


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
