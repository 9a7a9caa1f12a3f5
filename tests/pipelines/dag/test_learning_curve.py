"""The steps of accuracy against labels, and what is said of a section that cannot be followed."""

from __future__ import annotations

import pytest

from cluster.steps.step import Step, graph
from pipelines.dag import fewshot
from pipelines.report.page.graph import grouped
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.errors import InputError

CURVE = "learning_curve={shots: [2, 4], seeds: [0, 1], methods: [baseline, ensemble, student]}"


def steps_of(*overrides: str) -> dict[str, Step]:
    found = fewshot.build_steps(read_recipe(find_recipe("smoke"), PipelineConfig, overrides))
    assert list(graph(found)) == [step.name for step in found], "upstream before downstream, nothing left out"
    return {step.name: step for step in found}


def ways_up(step: Step) -> set[str]:
    """Names of all that a step needs."""
    return {name for one in step.upstream() for name in (one.name, *ways_up(one))}


def test_what_is_measured_with_few_labels_sees_no_others() -> None:
    steps = steps_of(CURVE)
    for kind in ("baseline/0", "soft_labels", "distill/0"):
        needed = ways_up(steps[f"learning_curve/2/1/{kind}"])
        assert {name for name in needed if not name.startswith("learning_curve/2/1/")} == {"data/rotten_tomatoes"}
        assert "data/rotten_tomatoes" not in {one.name for one in steps[f"learning_curve/2/1/{kind}"].upstream()}
    picture = steps["learning_curve/picture"]
    assert len(tuple(picture.upstream())) == 2 * 2 * 3
    assert picture in tuple(steps["report"].upstream())


def test_the_rest_of_the_recipe_stays_what_it_is() -> None:
    plain, more = steps_of(), steps_of(CURVE)
    for name, step in plain.items():
        if name != "report":
            assert more[name].config == step.config
    assert not any(name.startswith("learning_curve") for name in plain)


def test_smaller_sets_of_a_seed_are_chosen_alike_and_trained_from_other_starts_by_seed() -> None:
    steps = steps_of(CURVE)
    chosen = {name: steps[f"learning_curve/{name}/data"].config.seed for name in ("2/0", "4/0", "2/1")}
    assert chosen["2/0"] == chosen["4/0"] != chosen["2/1"]
    starts = [steps[f"learning_curve/2/{seed}/pet/review/0"].config.seed for seed in (0, 1)]
    assert starts[0] != starts[1]


def test_a_pretrained_prompt_is_not_pretrained_again() -> None:
    prompted = ("pet.tune=prompt", "pet.prompt={init: ppt}", "learning_curve.methods=[ensemble]")
    steps = steps_of("learning_curve={shots: [2, 4], seeds: [0]}", *prompted)
    assert "ppt/pair" in ways_up(steps["learning_curve/2/0/soft_labels"])
    assert not any("ppt" in name for name in steps if name.startswith("learning_curve"))


def test_members_and_generations_join_where_they_are_asked_for() -> None:
    probe = "members={minilm: {kind: probe, encoder: {asset: some/encoder}}}"
    whole = (probe, "pet.ipet={generations: 1}", "learning_curve.members=[minilm]", "learning_curve.ipet=true")
    curve = "learning_curve={shots: [2, 4], seeds: [0], methods: [ensemble]}"
    needed = ways_up(steps_of(curve, *whole)["learning_curve/2/0/soft_labels"])
    assert {"learning_curve/2/0/probe/minilm", "learning_curve/2/0/pet/g1/review/0"} <= needed
    assert "learning_curve/2/0/pet/review/0" in needed, "the second generation learns from the first"
    without = ways_up(steps_of(curve, *whole[:2])["learning_curve/2/0/soft_labels"])
    assert not any("probe" in name or "/g1/" in name for name in without)


def test_the_graph_has_one_box_for_the_curve() -> None:
    groups, edges = grouped(list(steps_of(CURVE).values()))
    assert [name for name in groups if "learning_curve" in name] == ["learning_curve/*"]
    assert {("data/rotten_tomatoes", "learning_curve/*"), ("learning_curve/*", "report")} <= set(edges)


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (("learning_curve={shots: [4, 16]}",), "learning_curve.shots", "16 examples a class are more than the 8"),
        (("learning_curve={shots: [2, 4]}", "baseline=null"), "learning_curve.methods", "no baseline section"),
        (("learning_curve={shots: [2, 4], patterns: [odd]}",), "learning_curve.patterns", "review, verdict, question"),
        (("learning_curve={shots: [2, 4], members: [odd]}",), "learning_curve.members", "The recipe has no members"),
        (("learning_curve={shots: [2, 4], ipet: true}",), "learning_curve.ipet", "pet.ipet is not set"),
        (("learning_curve={shots: [4]}",), "learning_curve.shots", "at least 2 items"),
    ],
)
def test_what_cannot_be_followed_is_told_with_its_key(overrides: tuple[str, ...], key: str, words: str) -> None:
    with pytest.raises((InputError, RecipeError)) as caught:
        steps_of(*overrides)
    assert key in str(caught.value) and words in str(caught.value)
