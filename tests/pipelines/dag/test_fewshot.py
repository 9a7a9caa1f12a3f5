"""The DAG of a recipe: its steps, their inputs, and the steps that a change of the recipe concerns."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.steps.step import Step, graph
from pipelines.dag.fewshot import build_steps
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe, shipped_recipes

SHIPPED = list(shipped_recipes())


def plan(recipe: str, *overrides: str) -> dict[str, Step]:
    """Returns the steps of a shipped recipe by name."""
    config = read_recipe(find_recipe(recipe), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def changed(recipe: str, *overrides: str) -> set[str]:
    """Returns the names of the steps whose own function, config or assets differ after `overrides`."""
    before, after = plan(recipe), plan(recipe, *overrides)
    assert before.keys() == after.keys()
    return {name for name in before if own(before[name]) != own(after[name])}


def own(step: Step) -> Any:
    return step.run, step.config, dict(step.assets)


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_build_steps_makes_all_steps_of_a_recipe(recipe: str) -> None:
    config = read_recipe(find_recipe(recipe), PipelineConfig)
    assert len(config.task.patterns) >= 3
    assert config.prompts is not None
    assert config.baseline is not None
    assert set(plan(recipe)) == {
        "data/rotten_tomatoes",
        "data/plot_or_quote",
        "ppt/pair",
        *(f"zero_shot/{pattern}" for pattern in config.task.patterns),
        *(f"pet/{pattern}/{seed}" for pattern in config.task.patterns for seed in config.pet.seeds),
        *(f"{member.kind}/{name}" for name, member in config.members.items()),
        "soft_labels",
        *(f"distill/{student}/{seed}" for student in config.encoder_students for seed in config.distill.seeds),
        *(f"baseline/{student}/{seed}" for student in config.encoder_students for seed in config.baseline.seeds),
        *(f"{kind}/words/0" for kind in ("distill", "baseline") if "words" in config.students),
        *(
            f"prompts/{task}/{method}/{seed}"
            for task in ("rotten_tomatoes", "plot_or_quote")
            for method in ("ppt", "random")
            for seed in config.prompts.seeds
        ),
        "report",
    }


@pytest.mark.parametrize("recipe", SHIPPED)
def test_every_shipped_recipe_is_a_graph_that_ends_in_its_report(recipe: str) -> None:
    steps = plan(recipe)
    ordered = graph([steps["report"]])
    assert ordered.keys() == steps.keys(), "the report reads every other step, or a step after it"
    names = list(steps)
    for name, step in steps.items():
        assert all(names.index(item) < names.index(name) for item in upstream(step)), "upstream before downstream"
    measured = [item.name for item in steps["report"].config.measured]
    assert measured == [item.name for item in steps["report"].upstream()]


@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_report_reads_every_step_with_a_row(recipe: str) -> None:
    steps = plan(recipe)
    measured = steps["report"].config.measured
    assert {name for name, step in steps.items() if KINDS[step.kind].row} <= {step.name for step in measured}
    for step in measured:
        kind = KINDS[step.kind]
        assert bool(step.labels.get("row")) == bool(kind.row), step
        expected = "/".join([step.labels["row"], *([step.labels["seed"]] if kind.has_seed else [])]) if kind.row else ""
        renamed = {"ensemble": "soft_labels", "student": "distill"}
        assert not expected or step.name == "/".join(renamed.get(part, part) for part in expected.split("/"))


@pytest.mark.parametrize("recipe", SHIPPED)
def test_steps_are_sorted_by_the_urgency_of_their_kind(recipe: str) -> None:
    order = list(KINDS)
    kinds = [order.index(step.kind) for step in plan(recipe).values()]
    assert kinds == sorted(kinds)


def test_every_kind_of_step_is_in_a_chart_and_member_kinds_have_rows() -> None:
    for name, kind in KINDS.items():
        assert kind.color.startswith("#"), name
        assert not kind.votes or kind.row, name
        assert not kind.row or kind.is_measured, name


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_each_step_reads_only_the_steps_that_it_needs(recipe: str) -> None:
    steps = plan(recipe)
    main = "data/rotten_tomatoes"
    teachers = {"distill/base/0"} & steps.keys()
    for step in steps.values():
        method, task = step.labels.get("method"), step.labels.get("task")
        expected: dict[str, set[str]] = {
            "data": set(),
            "ppt": set(),
            "zero_shot": {main},
            "pet": {main},
            "probe": {main},
            "finetuned": {main},
            "tfidf": {main},
            "baseline": {main},
            "soft_labels": {main, *(name for name, item in steps.items() if KINDS[item.kind].votes)},
            "distill": {main, "soft_labels", *(teachers if step.labels.get("student") != "base" else ())},
            "prompts": {f"data/{task}", *(["ppt/pair"] if method == "ppt" else [])},
            "report": set(steps) - {"report"},
        }
        assert upstream(step) == expected[step.kind]


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_every_step_has_its_own_seed(recipe: str) -> None:
    """The seeds of students do not depend on their names."""
    steps = [step for step in plan(recipe).values() if step.labels.get("student", "small") == "small"]
    random = [step.config for step in steps if step.kind != "zero_shot"]
    seeds = [config.seed for config in random if hasattr(config, "seed")]
    assert len(set(seeds)) == len(seeds) > 10


@pytest.mark.parametrize("recipe", ["smoke"])
@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("distill.training.learning_rate=1e-3", {"distill"}),
        ("distill.temperature=4", {"distill"}),
        ("baseline.training.batch_size=2", {"baseline"}),
        ("pet.training.learning_rate=0.5", {"pet"}),
        ("pet.lora.rank=5", {"pet"}),
        ("ensemble.weights=accuracy", {"soft_labels"}),
        ("ppt.training.learning_rate=0.5", {"ppt"}),
        ("prompts.training.learning_rate=0.5", {"prompts"}),
        ("students.small.max_length=17", {"distill", "baseline"}),
        ("backbone.max_length=17", {"ppt", "zero_shot", "pet", "prompts"}),
    ],
)
def test_a_setting_changes_only_the_configs_of_its_steps(recipe: str, override: str, kinds: set[str]) -> None:
    assert changed(recipe, override) == {name for name, step in plan(recipe).items() if step.kind in kinds}


@pytest.mark.parametrize(
    "override", ['task.patterns.review="{text} In short:{mask}"', "task.verbalizer.fresh.review=[fine]"]
)
@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_a_pattern_changes_only_its_own_submodels(recipe: str, override: str) -> None:
    seeds = read_recipe(find_recipe(recipe), PipelineConfig).pet.seeds
    names = changed(recipe, override) - {"soft_labels"}
    prompts = {name for name in names if name.startswith("prompts/rotten_tomatoes/")}
    assert names - prompts == {"zero_shot/review", *(f"pet/review/{seed}" for seed in seeds)}


def test_a_downstream_task_does_not_change_the_main_task() -> None:
    names = changed("demo", 'prompts.tasks.1.task.patterns.kind="{text} A{mask}"')
    assert names == {name for name in plan("demo") if name.startswith("prompts/plot_or_quote/")}


def test_the_seed_changes_all_random_steps() -> None:
    without_seed = ("zero_shot", "soft_labels")
    names = {name for name, step in plan("smoke").items() if step.kind not in without_seed}
    assert changed("smoke", "seed=99") == names


def test_cpus_and_gpus_change_resources_but_no_config() -> None:
    assert changed("smoke", "pet.cpus=3", "distill.gpus=1") == set()
    steps = plan("smoke", "pet.cpus=3", "distill.gpus=1")
    assert {step.resources.cpus for step in steps.values() if step.kind in ("pet", "zero_shot")} == {3}
    assert {step.resources.gpus for step in steps.values() if step.kind == "distill"} == {1}
    for step in steps.values():
        assert (step.resources.cpus == 0.5) == KINDS[step.kind].is_lightweight, step.name


LARGE = "students.large={asset: some/large, max_length: 9, baseline_training: {learning_rate: 0.1, steps: 3}}"
FROZEN = "students.frozen={asset: some/large, tune: head}"


def test_each_student_has_its_steps_settings_and_labels() -> None:
    steps = plan("smoke", LARGE, FROZEN, "students.small.training={learning_rate: 0.5, steps: 2}")
    own = {name: step for name, step in steps.items() if step.kind in ("distill", "baseline")}
    names, kinds = ("small", "large", "frozen"), ("distill", "baseline")
    assert set(own) == {f"{kind}/{name}/{seed}" for kind in kinds for name in names for seed in (0, 1)}
    rates = {name: step.config.training and step.config.training.learning_rate for name, step in own.items()}
    assert (rates["distill/small/0"], rates["distill/large/0"], rates["distill/frozen/0"]) == (0.5, 1e-4, None)
    assert (rates["baseline/small/0"], rates["baseline/large/0"], rates["baseline/frozen/0"]) == (1e-4, 0.1, None)
    assert own["distill/large/1"].config.student.max_length == 9
    assert own["distill/large/1"].labels == {
        "row": "student/large", "student": "large", "model": "encoder", "seed": "1",
    }  # fmt: skip
    assert own["baseline/large/1"].labels == {
        "row": "baseline/large", "student": "large", "model": "encoder", "seed": "1",
    }  # fmt: skip


def test_a_student_that_counts_words_has_one_seed_and_no_training() -> None:
    words = "students.words={kind: tfidf, analyzer: char, teacher: small}"
    steps = plan("smoke", words, "distill.gold_weight=0.3", "baseline.num_folds=3")
    own = {step.name: step for step in steps.values() if step.labels.get("student") == "words"}
    student, baseline = own["distill/words/0"], own["baseline/words/0"]
    assert len(own) == 2
    assert upstream(student) == {"data/rotten_tomatoes", "soft_labels", "distill/small/0"}
    assert (student.config.analyzer, student.config.gold_weight) == ("char", 0.3)
    assert (baseline.config.analyzer, baseline.config.num_folds) == ("char", 3)
    assert student.labels == {"row": "student/words", "student": "words", "model": "tfidf", "seed": "0"}
    assert steps["distill/small/0"].config.label_unlabeled and not steps["distill/small/1"].config.label_unlabeled


def test_the_name_of_a_student_does_not_change_its_seed() -> None:
    steps = plan("smoke", "students.other={asset: some/large}")
    for kind in ("distill", "baseline"):
        small, other, next_seed = (steps[f"{kind}/{name}"].config.seed for name in ("small/0", "other/0", "small/1"))
        assert small == other != next_seed


def test_another_student_changes_only_the_report() -> None:
    one, two = plan("smoke"), plan("smoke", LARGE)
    assert [name for name, step in one.items() if own(step) != own(two[name])] == ["report"]


def test_the_first_seed_of_a_student_teaches_another() -> None:
    steps = plan("smoke", LARGE, "students.small.teacher=large")
    own = {name: step for name, step in steps.items() if step.kind == "distill"}
    teachers = {name: step.inputs.get("teacher") for name, step in own.items()}
    large = own["distill/large/0"]
    assert teachers == {
        "distill/small/0": large, "distill/small/1": large, "distill/large/0": None, "distill/large/1": None
    }  # fmt: skip
    assert {name for name, step in own.items() if step.config.label_unlabeled} == {"distill/large/0"}


def test_a_taught_student_may_teach_the_next_one() -> None:
    steps = plan("smoke", LARGE, "students.small.teacher=large", FROZEN, "students.frozen.teacher=small")
    assert steps["distill/frozen/1"].inputs["teacher"] is steps["distill/small/0"]
    assert steps["distill/small/0"].inputs["teacher"] is steps["distill/large/0"]
    assert steps["distill/small/0"].config.label_unlabeled and not steps["distill/frozen/0"].config.label_unlabeled


def test_a_teacher_changes_only_students_that_it_teaches() -> None:
    one, two = plan("smoke", LARGE), plan("smoke", LARGE, "students.small.teacher=large")
    names = {name for name in one if own(one[name]) != own(two[name])}
    assert names == {"distill/large/0", "report"}, "it labels more, and the report reads it first"


def test_the_baseline_of_the_first_seed_is_cross_validated() -> None:
    steps = plan("smoke", "baseline.num_folds=3", FROZEN)
    num_folds = {name: step.config.num_folds for name, step in steps.items() if step.kind == "baseline"}
    assert num_folds == {
        "baseline/small/0": 3, "baseline/small/1": None, "baseline/frozen/0": 3, "baseline/frozen/1": None
    }  # fmt: skip


def test_without_unlabeled_data_there_are_no_soft_labels_and_no_students() -> None:
    probe = "members.mini={kind: probe, encoder: {asset: some/encoder}}"
    kinds = {step.kind for step in plan("smoke", "data.unlabeled_size=0", probe).values()}
    assert {"pet", "probe", "baseline", "report"} <= kinds and not kinds & {"soft_labels", "distill"}


def test_optional_sections_have_no_steps_if_they_are_not_set() -> None:
    steps = plan("smoke", "ppt=null", "prompts=null", "baseline=null", "zero_shot=false")
    assert {step.kind for step in steps.values()} == {"data", "pet", "soft_labels", "distill", "report"}
    assert "data/plot_or_quote" not in steps


def test_zero_shot_submodels_have_no_training_settings() -> None:
    submodels = [step.config for step in plan("smoke", "pet.tune=none").values() if step.kind == "pet"]
    assert submodels
    assert all(config.training is None and config.tune == "none" for config in submodels)
