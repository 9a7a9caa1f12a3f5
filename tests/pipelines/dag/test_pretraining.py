"""Steps of prompt pretraining: formats, their settings, and the prompts that start from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, load_config, read_recipe
from stages.common.assets.cache import identity
from stages.common.seeds import derive_seed
from stages.prompt_pretraining.config import SingleConfig
from tests.support.paths import ROOT

ALL = "ppt.formats=[pair, choice, single, unified]"
ROOM = ("ppt.choice_options=5", "ppt.unified_options=[2, 5]")
"""Options that fit into the 48 tokens of `smoke`."""


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, overrides)


def plan(*overrides: str) -> dict[str, Step]:
    return {step.name: step for step in build_steps(read(*overrides))}


def test_the_default_format_is_pair() -> None:
    steps = plan()
    assert [step.config.format for step in steps.values() if step.kind == "ppt"] == ["pair"]
    for step in steps.values():
        if step.kind == "prompts":
            reads_prompt = "ppt/pair" in {item.name for item in step.upstream()}
            assert reads_prompt is (step.labels["method"] == "ppt")


def test_every_format_is_a_step_with_its_own_seed_and_settings() -> None:
    steps = plan(ALL, *ROOM, "ppt.single.min_confidence=0.7")
    configs = {name: step.config for name, step in steps.items() if step.kind == "ppt"}
    assert {step.labels["format"] for step in steps.values() if step.kind == "ppt"} == set(KINDS["ppt"].pretrained_to)
    assert list(configs) == ["ppt/pair", "ppt/choice", "ppt/single", "ppt/unified"]
    for name, config in configs.items():
        assert config.format == name.removeprefix("ppt/")
        assert config.seed == derive_seed(read().seed, name)
    assert configs["ppt/choice"].num_options == (5, 5)
    assert configs["ppt/unified"].num_options == (2, 5)
    assert configs["ppt/single"].single.min_confidence == 0.7
    assert set(configs) <= {step.name for step in steps["report"].config.measured}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("ppt.choice_options=4", "ppt/choice"),
        ("ppt.unified_options=[3, 5]", "ppt/unified"),
        ("ppt.single.min_confidence=0.9", "ppt/single"),
    ],
)
def test_settings_of_a_format_change_only_its_step(override: str, changed: str) -> None:
    before, after = plan(ALL, *ROOM), plan(ALL, *ROOM, override)
    assert {name for name in before if before[name].config != after[name].config} == {changed}


def test_a_classifier_is_an_asset_of_single_only(tmp_path: Path) -> None:
    (tmp_path / "classifier.json").write_text("{}")
    override = f"ppt.single.classifier={tmp_path}"
    steps = plan(ALL, *ROOM, override)
    assert steps["ppt/single"].assets["single.classifier"] == identity(str(tmp_path))
    assert not any("single.classifier" in steps[name].assets for name in ("ppt/pair", "ppt/choice", "ppt/unified"))
    assert read(ALL, *ROOM, override).assets["ppt.single.classifier"] == str(tmp_path)
    assert "ppt.single.classifier" not in read(override).assets, "not fetched for other formats"


@pytest.mark.parametrize("batched", ["true", "false"])
def test_prompts_start_from_the_pretrained_prompt_of_their_format(batched: str) -> None:
    pair = "task.patterns.review='{text} {text_b} is {mask}.'"
    fields = "data.pool.fields={text: text, text_b: text}"
    steps = plan(ALL, *ROOM, pair, fields, "prompts.tasks.1.format=unified", f"prompts.batched_training={batched}")
    expected = {"rotten_tomatoes": "pair", "plot_or_quote": "unified"}
    for task, kind in expected.items():
        step = steps[f"prompts/{task}/ppt/0"]
        if batched == "true":
            shared = steps["prompts/batched"]
            [job] = [job for job in shared.config.jobs if job.name == step.name]
            assert shared.inputs["pretrained"][job.pretrained].name == f"ppt/{kind}"
        else:
            assert step.inputs["pretrained"].name == f"ppt/{kind}"
            assert "pretrained" not in steps[f"prompts/{task}/random/0"].inputs


PAGE = (ROOT / "docs/how-to/ppt.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_yaml_block_of_the_how_to_page_is_a_valid_part_of_a_recipe(number: int) -> None:
    values = yaml.safe_load(find_recipe("smoke").read_text())
    for name, section in BLOCKS[number].items():
        values[name] = {**values[name], **section}
    config = load_config(values)
    if number == 1:
        assert config.ppt is not None
        assert config.ppt.single == SingleConfig(), "the page shows the defaults"
