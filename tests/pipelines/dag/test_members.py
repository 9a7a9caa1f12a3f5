"""Members of the ensemble as steps: generations, other backbones, probes; words that are searched for; no labels."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.dag.members import member_kind
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

IPET = "pet.ipet={generations: 2, teacher_fraction: 0.5}"
LOOP = "{learning_rate: 0.01, steps: 2}"
BACKBONE = "{asset: hf:google-bert/bert-base-uncased}"
BERT = f"members.bert={{kind: pet, backbone: {BACKBONE}, patterns: [review], training: {LOOP}}}"
PROBE = "members.mini={kind: probe, encoder: {asset: hf:sentence-transformers/all-MiniLM-L6-v2}}"
ZERO = ("data.shots=0", "baseline=null", "prompts.tasks=[]")


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


def voting(found: dict[str, Step]) -> set[str]:
    return upstream(found["soft_labels"]) - {"data/rotten_tomatoes"}


def refused(*overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        plan(*overrides)
    return caught.value


# --- generations --------------------------------------------------------------------------------------------------


def test_each_generation_is_taught_by_others_of_the_one_before() -> None:
    found = plan(IPET)
    patterns = ("review", "verdict", "question")
    assert voting(found) == {f"pet/g2/{pattern}/0" for pattern in patterns}
    for number, before in ((1, "pet"), (2, "pet/g1")):
        for pattern in patterns:
            teachers = upstream(found[f"pet/g{number}/{pattern}/0"]) - {"data/rotten_tomatoes"}
            others = {f"{before}/{other}/0" for other in patterns if other != pattern}
            assert len(teachers) == 1, "half of two"
            assert teachers < others
    assert {f"pet/{pattern}/0" for pattern in patterns} <= upstream(found["report"])


def test_generations_know_nothing_of_those_after_them() -> None:
    two, three = plan(IPET), plan("pet.ipet={generations: 3, teacher_fraction: 0.5}")
    for name in ("pet/review/0", "pet/g1/review/0", "pet/g2/review/0"):
        assert two[name].config == three[name].config
        assert upstream(two[name]) == upstream(three[name])


def test_seeds_of_generations_differ() -> None:
    seeds = [step.config.seed for name, step in plan(IPET).items() if name.startswith("pet/")]
    assert len(seeds) == len(set(seeds)) == 9


def test_one_submodel_cannot_teach_itself() -> None:
    error = refused(IPET, "pet.patterns=[review]")
    assert "needs two sub-models" in error.problem
    assert error.key == "pet.ipet"
    assert "pet/g2/review/1" in plan(IPET, "pet.patterns=[review]", "pet.seeds=[0, 1]")


# --- members of other kinds ---------------------------------------------------------------------------------------


def test_members_on_other_backbones_and_probes_vote_too() -> None:
    found = plan(BERT, PROBE)
    assert voting(found) == {
        *(f"pet/{name}/0" for name in ("review", "verdict", "question")),
        "pet/bert/review/0",
        "probe/mini",
    }
    assert found["pet/bert/review/0"].assets != found["pet/review/0"].assets
    assert upstream(found["probe/mini"]) == {"data/rotten_tomatoes"}
    config = found["soft_labels"].config
    assert dict(zip(config.members, config.groups, strict=True)) == {
        "pet/review/0": "pet",
        "pet/verdict/0": "pet",
        "pet/question/0": "pet",
        "pet/bert/review/0": "pet/bert",
        "probe/mini": "probe/mini",
    }


@pytest.mark.parametrize(
    ("member", "group"),
    [
        ("pet/review/0", "pet"),
        ("pet/g3/review/0", "pet"),
        ("pet/bert/review/1", "pet/bert"),
        ("pet/bert/g2/review/1", "pet/bert"),
        ("probe/mini", "probe/mini"),
    ],
)
def test_generations_and_patterns_are_no_kinds(member: str, group: str) -> None:
    assert member_kind(member) == group


def test_a_change_of_the_mixture_touches_the_soft_labels_alone() -> None:
    before, after = plan(PROBE), plan(PROBE, "ensemble.weights=balanced", "ensemble.calibration=pile")
    assert {name for name in before if before[name].config != after[name].config} == {"soft_labels"}


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("members.g1={kind: probe, encoder: {asset: x}}",), "members.g1", "names a generation"),
        (("members.x={kind: probe, encoder: {aset: x}}",), "members.x.encoder.aset", "unknown key 'aset'"),
        (("members.x={kind: pet, backbone: {asset: x}}",), "members.x", "needs a loop"),
        (("members.x={kind: tree}",), "members.x", "tree"),
        (("pet.patterns=[reviw]",), "pet.patterns", "no pattern 'reviw'"),
        (("pet.training=null",), "pet", "needs a loop"),
        (("pet.tune=none", "pet.ipet={}"), "pet", "neither mlm nor ipet"),
        (("task.verbalizer={}",), "task.verbalizer", "no label words"),
        (("verbalizer_search={}",), "verbalizer_search", "label words already"),
        (
            ("task.verbalizer={}", "prompts=null", "verbalizer_search={num_candidates: 5}"),
            "verbalizer_search",
            "less than num_words",
        ),
        (("pet.training.early_stopping={}",), "pet.training.early_stopping", "needs a development set"),
        (
            ("data.dev_shots=2", "prompts.training.early_stopping={}"),
            "prompts.training.early_stopping",
            "development set",
        ),
        (
            ("data.dev_shots=2", "prompts.methods={x: {training: {learning_rate: 0.1, steps: 2, early_stopping: {}}}}"),
            "prompts.methods.x.training.early_stopping",
            "development set",
        ),
        (("student.tune=head",), "distill.training", "head takes no loop"),
        (("distill.training=null", "baseline=null"), "distill.training", "full needs one"),
        (("data.unlabeled_size=0",), "data", "no unlabelled texts"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(overrides: tuple[str, ...], key: str, problem: str) -> None:
    error = refused(*overrides)
    assert error.key == key
    assert problem in str(error)
    assert error.remedy


# --- words that are searched for ----------------------------------------------------------------------------------


def test_words_are_found_before_they_are_used() -> None:
    found = plan("task.verbalizer={}", "verbalizer_search={num_words: 3}", "prompts=null", "priming={shots: 1}")
    for name, step in found.items():
        kind, *rest = name.split("/")
        if kind in ("pet", "zero_shot", "priming"):
            assert f"verbalizer/{rest[0]}" in upstream(step), name
    assert upstream(found["verbalizer/review"]) == {"data/rotten_tomatoes"}
    assert "verbalizer/review" in upstream(found["report"])


def test_prompts_for_the_recipes_own_task_need_words() -> None:
    assert refused("task.verbalizer={}", "verbalizer_search={}").key == "task.verbalizer"


# --- without labels -----------------------------------------------------------------------------------------------


def zero(*overrides: str) -> dict[str, Step]:
    return plan("data.shots=0", "baseline=null", "prompts=null", *overrides)


def test_without_labels_the_first_generation_is_zero_shot() -> None:
    found = zero(IPET, "pet.seeds=[0, 1]")
    first = [step for name, step in found.items() if name.startswith("pet/") and "/g" not in name]
    assert len(first) == 3, "untrained sub-models have no seeds"
    assert {step.config.tune for step in first} == {"none"}
    assert all(step.config.growth.from_zero for name, step in found.items() if name.startswith("pet/g"))
    assert len(voting(found)) == 3


def test_without_labels_and_generations_nothing_is_trained() -> None:
    found = zero("pet.tune=none")
    assert {found[name].config.tune for name in voting(found)} == {"none"}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("pet.seeds=[0]", "pet.tune"),
        (PROBE, "members.mini"),
        ("priming={}", "priming"),
        ("distill.gold_weight=0.5", "distill.gold_share"),
        ("baseline={training: {learning_rate: 0.1, steps: 2}}", "baseline"),
    ],
)
def test_without_labels_what_needs_some_is_refused(override: str, key: str) -> None:
    base = ["data.shots=0", "baseline=null", "prompts=null"]
    if key != "pet.tune":
        base += ["pet.tune=none"]
    error = refused(*base, override)
    assert error.key == key
    assert "no labelled examples" in error.problem


def test_multiple_choice_in_a_recipe() -> None:
    task: dict[str, Any] = {
        "name": "copa",
        "labels": ["1", "2"],
        "options": {"1": "choice1", "2": "choice2"},
        "patterns": {"so": "{premise|rstrip_punct}, so {option} Is it right? {mask}."},
        "verbalizer": {"right": ["yes"], "wrong": ["no"]},
    }
    source = "{asset: a, label: l, fields: {premise: premise, choice1: choice1, choice2: choice2}}"
    found = plan(
        f"task={yaml.safe_dump(task, default_flow_style=True, width=10**6).strip()}",
        f"data={{train: {source}, test: {source}, unlabeled: {source}}}",
        "prompts=null",
    )
    assert found["pet/so/0"].config.task.fields == ("premise", "choice1", "choice2")
    broken = {**task, "patterns": {"so": "{premise} {mask}."}}
    error = refused(f"task={yaml.safe_dump(broken, default_flow_style=True, width=10**6).strip()}", "prompts=null")
    assert "lacks {option}" in error.problem
