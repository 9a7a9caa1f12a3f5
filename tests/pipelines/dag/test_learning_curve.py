"""The steps of the learning curve."""

from __future__ import annotations

from cluster.steps.step import Step, graph
from pipelines.dag import fewshot
from pipelines.report.page.graph import grouped
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe

CURVE = "learning_curve={shots: [2, 4], seeds: [0, 1], methods: [baseline, ensemble, student]}"


def steps_of(*overrides: str) -> dict[str, Step]:
    steps = fewshot.build_steps(read_recipe(find_recipe("smoke"), PipelineConfig, overrides))
    assert list(graph(steps)) == [step.name for step in steps], "upstream before downstream, nothing missing"
    return {step.name: step for step in steps}


def ancestors(step: Step) -> set[str]:
    """Returns the names of all steps before a step."""
    return {name for one in step.upstream() for name in (one.name, *ancestors(one))}


def test_a_point_reads_only_its_subset_of_the_labeled_data() -> None:
    steps = steps_of(CURVE)
    for kind in ("baseline/small/0", "soft_labels", "distill/small/0"):
        names = ancestors(steps[f"learning_curve/2/1/{kind}"])
        assert {name for name in names if not name.startswith("learning_curve/2/1/")} == {"data/rotten_tomatoes"}
        assert "data/rotten_tomatoes" not in {one.name for one in steps[f"learning_curve/2/1/{kind}"].upstream()}
    picture = steps["learning_curve/picture"]
    assert len(tuple(picture.upstream())) == 2 * 2 * 3
    assert picture in tuple(steps["report"].upstream())


def test_a_learning_curve_does_not_change_other_steps() -> None:
    plain, more = steps_of(), steps_of(CURVE)
    for name, step in plain.items():
        if name != "report":
            assert more[name].config == step.config
    assert not any(name.startswith("learning_curve") for name in plain)


def test_subsets_of_one_seed_have_one_seed_and_models_have_different_seeds() -> None:
    steps = steps_of(CURVE)
    seeds = {name: steps[f"learning_curve/{name}/data"].config.seed for name in ("2/0", "4/0", "2/1")}
    assert seeds["2/0"] == seeds["4/0"] != seeds["2/1"]
    models = [steps[f"learning_curve/2/{seed}/pet/review/0"].config.seed for seed in (0, 1)]
    assert models[0] != models[1]


def test_a_pretrained_prompt_is_not_pretrained_again() -> None:
    prompted = ("pet.tune=prompt", "pet.prompt={init: ppt}", "learning_curve.methods=[ensemble]")
    steps = steps_of("learning_curve={shots: [2, 4], seeds: [0]}", *prompted)
    assert "ppt/pair" in ancestors(steps["learning_curve/2/0/soft_labels"])
    assert not any("ppt" in name for name in steps if name.startswith("learning_curve"))


def test_members_and_generations_are_repeated_if_configured() -> None:
    probe = "members={minilm: {kind: probe, encoder: {asset: some/encoder}}}"
    overrides = (probe, "pet.ipet={generations: 1}", "learning_curve.members=[minilm]", "learning_curve.ipet=true")
    curve = "learning_curve={shots: [2, 4], seeds: [0], methods: [ensemble]}"
    names = ancestors(steps_of(curve, *overrides)["learning_curve/2/0/soft_labels"])
    assert {"learning_curve/2/0/probe/minilm", "learning_curve/2/0/pet/g1/review/0"} <= names
    assert "learning_curve/2/0/pet/review/0" in names, "the second generation learns from the first"
    fewer = ancestors(steps_of(curve, *overrides[:2])["learning_curve/2/0/soft_labels"])
    assert not any("probe" in name or "/g1/" in name for name in fewer)


def test_the_graph_has_one_node_for_the_learning_curve() -> None:
    groups, edges = grouped(list(steps_of(CURVE).values()))
    assert [name for name in groups if "learning_curve" in name] == ["learning_curve/*"]
    assert {("data/rotten_tomatoes", "learning_curve/*"), ("learning_curve/*", "report")} <= set(edges)


def test_steps_of_the_learning_curve_have_their_own_kinds() -> None:
    kinds = {name: step.kind for name, step in steps_of(CURVE).items() if name.startswith("learning_curve/")}
    assert kinds.pop("learning_curve/picture") == "learning_curve"
    assert set(kinds.values()) == {"curve_point"}


def test_the_learning_curve_uses_the_first_student() -> None:
    steps = steps_of(CURVE, "students.large={asset: some/large}")
    names = [name for name in steps if name.startswith("learning_curve/2/0/")]
    assert {"learning_curve/2/0/distill/small/0", "learning_curve/2/0/baseline/small/0"} <= set(names)
    assert not any("large" in name for name in names)


def test_the_learning_curve_of_baselines_needs_no_unlabeled_data() -> None:
    steps = steps_of("learning_curve={shots: [2, 4], methods: [baseline]}", "data.unlabeled_size=0")
    assert "learning_curve/4/0/baseline/small/0" in steps and "learning_curve/4/0/soft_labels" not in steps
