"""Steps of the members of the ensemble: generations, other backbones, encoders, TF-IDF, verbalizer search, no labeled
data, and no language model.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster.steps.fingerprint import fingerprints
from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe

IPET = "pet.ipet={generations: 2, teacher_fraction: 0.5}"
TRAINING = "{learning_rate: 0.01, steps: 2}"
BACKBONE = "{asset: hf:google-bert/bert-base-uncased}"
BERT = f"members.bert={{kind: pet, backbone: {BACKBONE}, patterns: [review], training: {TRAINING}}}"
PROBE = "members.mini={kind: probe, encoder: {asset: hf:sentence-transformers/all-MiniLM-L6-v2}}"

FINETUNED = f"members.large={{kind: finetuned, encoder: {{asset: some/large, max_length: 9}}, training: {TRAINING}}}"
TFIDF = "members.words={kind: tfidf, analyzer: char, num_folds: 3}"
LLM = "members.assistant={kind: llm, url: 'http://localhost:8000/v1', model: small}"
NO_LANGUAGE_MODEL = ("backbone=null", "pet=null", "ppt=null", "prompts=null")


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


def members(steps: dict[str, Step]) -> set[str]:
    return upstream(steps["soft_labels"]) - {"data/rotten_tomatoes"}


def test_teachers_are_other_submodels_of_the_previous_generation() -> None:
    steps = plan(IPET)
    patterns = ("review", "verdict", "question")
    assert members(steps) == {f"pet/g2/{pattern}/0" for pattern in patterns}
    for number, before in ((1, "pet"), (2, "pet/g1")):
        for pattern in patterns:
            teachers = upstream(steps[f"pet/g{number}/{pattern}/0"]) - {"data/rotten_tomatoes"}
            others = {f"{before}/{other}/0" for other in patterns if other != pattern}
            assert len(teachers) == 1, "half of two"
            assert teachers < others
    assert {f"pet/{pattern}/0" for pattern in patterns} <= upstream(steps["report"])


def test_a_generation_does_not_depend_on_later_generations() -> None:
    two, three = plan(IPET), plan("pet.ipet={generations: 3, teacher_fraction: 0.5}")
    for name in ("pet/review/0", "pet/g1/review/0", "pet/g2/review/0"):
        assert two[name].config == three[name].config
        assert upstream(two[name]) == upstream(three[name])


def test_students_learn_from_the_submodel_before_them() -> None:
    students = f"pet.self_training={{generations: 2, tune: ia3, max_examples: 9, training: {TRAINING}}}"
    steps = plan(students)
    patterns = ("review", "verdict", "question")
    assert members(steps) == {f"pet/g2/{pattern}/0" for pattern in patterns}
    for number, before in ((1, "pet"), (2, "pet/g1")):
        step = steps[f"pet/g{number}/review/0"]
        assert upstream(step) == {"data/rotten_tomatoes", f"{before}/review/0"}
        assert (step.config.tune, step.config.training.steps, step.config.growth) == ("ia3", 2, None)
        assert (step.config.student.generation, step.config.student.max_examples) == (number, 9)
        assert step.labels["generation"] == str(number)
    assert steps["pet/review/0"].config.student is None
    longer = plan(students.replace("generations: 2", "generations: 3"))
    assert longer["pet/g2/review/0"].config == steps["pet/g2/review/0"].config


def test_generations_have_adapet_and_demonstrations() -> None:
    settings = ("pet.loss=decoupled", "pet.label_conditioning={}", "pet.demonstrations={num_samples: 2}")
    steps = plan(IPET, *settings)
    for name in ("pet/review/0", "pet/g1/review/0", "pet/g2/review/0"):
        config = steps[name].config
        assert config.loss == "decoupled" and config.label_conditioning and config.demonstrations.num_samples == 2
    untrained = plan(IPET, "pet.label_conditioning={}", "data.shots=0", "baseline=null", "prompts=null", "ppt=null")
    assert untrained["pet/review/0"].config.label_conditioning is None
    assert untrained["pet/g1/review/0"].config.label_conditioning is not None


def test_generations_have_different_seeds() -> None:
    seeds = [step.config.seed for step in plan(IPET).values() if step.kind == "pet"]
    assert len(seeds) == len(set(seeds)) == 9


def test_other_backbones_and_probes_are_members() -> None:
    steps = plan(BERT, PROBE)
    assert members(steps) == {
        *(f"pet/{name}/0" for name in ("review", "verdict", "question")),
        "pet/bert/review/0",
        "probe/mini",
    }
    assert steps["pet/bert/review/0"].assets != steps["pet/review/0"].assets
    assert upstream(steps["probe/mini"]) == {"data/rotten_tomatoes"}
    config = steps["soft_labels"].config
    assert dict(zip(config.members, config.groups, strict=True)) == {
        "pet/review/0": "pet",
        "pet/verdict/0": "pet",
        "pet/question/0": "pet",
        "pet/bert/review/0": "pet/bert",
        "probe/mini": "probe/mini",
    }


def test_a_finetuned_encoder_is_a_member() -> None:
    step = plan(FINETUNED)["finetuned/large"]
    assert step.run == "stages.baseline.stage:run"
    assert (step.config.student.max_length, step.config.student.tune) == (9, "full")
    assert (step.config.num_folds, step.config.label_unlabeled, step.config.training.steps) == (4, True, 2)
    assert upstream(step) == {"data/rotten_tomatoes"}
    assert step.labels == {"row": "finetuned/large", "member": "finetuned/large"}
    assert list(step.assets) == ["student.asset"]


def test_tfidf_is_a_member() -> None:
    step = plan(TFIDF)["tfidf/words"]
    assert (step.config.analyzer, step.config.num_folds) == ("char", 3)
    assert upstream(step) == {"data/rotten_tomatoes"}
    assert step.labels == {"row": "tfidf/words", "member": "tfidf/words"}
    assert not step.assets


@pytest.mark.parametrize("kind", ["word_vectors", "nli"])
def test_word_vectors_and_nli_are_members(kind: str) -> None:
    step = plan(f"members.other={{kind: {kind}, asset: some/model}}")[f"{kind}/other"]
    assert step.run == f"stages.{kind}.stage:run"
    assert upstream(step) == {"data/rotten_tomatoes"}
    assert step.labels == {"row": f"{kind}/other", "member": f"{kind}/other"}
    assert list(step.assets) == ["asset"]


def test_a_language_model_at_an_endpoint_is_a_member() -> None:
    step = plan(LLM)["llm/assistant"]
    assert upstream(step) == {"data/rotten_tomatoes"}
    assert step.labels == {"row": "llm/assistant", "member": "llm/assistant"}
    assert not step.assets


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ("url=http://elsewhere/v1", True),
        ("api_key_variable=KEY", True),
        ("max_requests=5", True),
        ("prices={input: 1, output: 2}", True),
        ("model=large", False),
        ("shots=2", False),
        ("instruction='One of {labels}.'", False),
    ],
)
def test_only_what_changes_answers_is_in_the_key(change: str, is_same: bool) -> None:
    keys = [
        fingerprints(plan(LLM, *overrides))["llm/assistant"].fingerprint
        for overrides in ((), (f"members.assistant.{change}",))
    ]
    assert (keys[0] == keys[1]) is is_same


def test_only_language_models_prefer_labels_whatever_the_text_is() -> None:
    steps = plan(BERT, PROBE, FINETUNED, TFIDF)
    config = steps["soft_labels"].config
    have_priors = dict(zip(config.members, config.have_priors, strict=True))
    assert {name for name, has_prior in have_priors.items() if not has_prior} == {
        "probe/mini", "finetuned/large", "tfidf/words"
    }  # fmt: skip
    assert upstream(steps["report"]) >= {"finetuned/large", "tfidf/words"}


def test_a_recipe_without_a_language_model_has_no_steps_with_patterns() -> None:
    steps = plan(*NO_LANGUAGE_MODEL, "task.verbalizer={}", FINETUNED, TFIDF)
    assert members(steps) == {"finetuned/large", "tfidf/words"}
    assert {step.kind for step in steps.values()} == {
        "data", "finetuned", "tfidf", "soft_labels", "distill", "baseline", "report"
    }  # fmt: skip


def test_a_backbone_without_submodels_is_tested_without_training() -> None:
    steps = plan("pet=null", TFIDF)
    assert {step.labels["pattern"] for step in steps.values() if step.kind == "zero_shot"} == {
        "review", "verdict", "question"
    }  # fmt: skip
    assert members(steps) == {"tfidf/words"}


def test_folds_of_submodels_change_only_the_submodels() -> None:
    before, after = plan(BERT), plan(BERT, "pet.num_folds=2")
    changed = {name for name in before if before[name].config != after[name].config}
    assert changed == {f"pet/{pattern}/0" for pattern in ("review", "verdict", "question")}


def test_ensemble_settings_change_only_the_soft_labels() -> None:
    before, after = plan(PROBE), plan(PROBE, "ensemble.weights=balanced", "ensemble.calibration=unlabeled")
    assert {name for name in before if before[name].config != after[name].config} == {"soft_labels"}


def test_steps_with_a_pattern_read_the_words_that_the_search_finds() -> None:
    steps = plan("task.verbalizer={}", "verbalizer_search={num_words: 3}", "prompts=null", "priming={shots: 1}")
    for step in steps.values():
        if step.kind in ("pet", "zero_shot", "priming"):
            assert f"verbalizer/{step.labels['pattern']}" in upstream(step), step.name
    assert upstream(steps["verbalizer/review"]) == {"data/rotten_tomatoes"}
    assert "verbalizer/review" in upstream(steps["report"])


def test_steps_with_a_pattern_read_what_the_pattern_search_finds() -> None:
    text = "task.patterns.again='{text} It was {mask}.'"
    same = ("task.patterns.review='{text} It was {mask}.'", text)
    words = "task.verbalizer={rotten: [bad], fresh: [good]}"
    steps = plan(*same, words, "pattern_search={edit: {}, patterns: [review, again, question]}", "prompts=null")
    searches = {step.name: step for step in steps.values() if step.kind == "pattern_search"}
    assert {name: step.config.names for name, step in searches.items()} == {
        "pattern_search/review": ("review", "again"),
        "pattern_search/question": ("question",),
    }
    found_by = {"review": "review", "again": "review", "question": "question"}
    for step in steps.values():
        if step.kind in ("pet", "zero_shot"):
            read = {name for name in upstream(step) if name.startswith("pattern_search/")}
            pattern = step.labels["pattern"]
            assert read == ({f"pattern_search/{found_by[pattern]}"} if pattern in found_by else set()), step.name
    for step in searches.values():
        assert upstream(step) == {"data/rotten_tomatoes"}
        assert set(step.config.task.patterns) == {step.labels["pattern"]}
        assert step.name in upstream(steps["report"])


def test_patterns_with_other_words_are_searched_apart() -> None:
    same = ("task.patterns.review='{text} It was {mask}.'", "task.patterns.verdict='{text} It was {mask}.'")
    words = "task.verbalizer={rotten: {review: [bad], verdict: [poor], question: ['no']}, fresh: [good]}"
    steps = plan(*same, words, "pattern_search={gradient: {}}", "prompts=null")
    assert {step.name for step in steps.values() if step.kind == "pattern_search"} == {
        "pattern_search/review", "pattern_search/verdict", "pattern_search/question"
    }  # fmt: skip


def zero(*overrides: str) -> dict[str, Step]:
    return plan("data.shots=0", "baseline=null", "prompts=null", *overrides)


def test_without_labels_the_first_generation_is_zero_shot() -> None:
    steps = zero(IPET, "pet.seeds=[0, 1]")
    submodels = [step for step in steps.values() if step.kind == "pet"]
    first = [step for step in submodels if step.labels["generation"] == "0"]
    assert len(first) == 3, "one seed, because untrained sub-models are identical"
    assert {step.config.tune for step in first} == {"none"}
    assert all(step.config.growth.from_zero for step in submodels if step not in first)
    assert len(members(steps)) == 3


def test_without_labels_and_generations_all_members_are_zero_shot() -> None:
    steps = zero("pet.tune=none")
    assert {steps[name].config.tune for name in members(steps)} == {"none"}


def test_a_multiple_choice_task_has_the_fields_of_its_options() -> None:
    task: dict[str, Any] = {
        "name": "copa",
        "labels": ["1", "2"],
        "options": {"1": "choice1", "2": "choice2"},
        "patterns": {"so": "{premise|rstrip_punct}, so {option} Is it right? {mask}."},
        "verbalizer": {"right": ["yes"], "wrong": ["no"]},
    }
    source = "{asset: a, label: l, fields: {premise: premise, choice1: choice1, choice2: choice2}}"
    steps = plan(
        f"task={yaml.safe_dump(task, default_flow_style=True, width=10**6).strip()}",
        f"data={{train: {source}, test: {source}, unlabeled: {source}}}",
        "prompts=null",
    )
    assert steps["pet/so/0"].config.task.fields == ("premise", "choice1", "choice2")


def test_labels_of_members_define_their_kind_for_balanced_weights() -> None:
    bert = (
        "members.g1={kind: pet, backbone: {asset: x}, tune: lora, training: {learning_rate: 0.1, steps: 1}, ipet: {}}"
    )
    steps = plan("pet.seeds=[0, 1]", bert, PROBE)
    labels = {name: steps[name].labels["member"] for name in members(steps)}
    assert labels["pet/review/1"] == "pet"
    assert labels["pet/g1/g2/review/0"] == "pet/g1", "a member may be called g1"
    assert labels["probe/mini"] == "probe/mini"
    assert steps["pet/g1/g2/review/0"].labels["row"] == "pet/g1/g2/review"
    assert list(steps["soft_labels"].config.groups) == [labels[name] for name in steps["soft_labels"].config.members]
