"""Rules about sections of a recipe: each broken rule is an error with its key and a remedy."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from pipelines.schema.rules import RULES
from tests.support.generation_tasks import generation_overrides
from tests.support.regression_data import regression_overrides
from tests.support.token_level_tasks import token_level_overrides

IPET = "pet.ipet={generations: 2, teacher_fraction: 0.5}"
STUDENTS = "pet.self_training={training: {learning_rate: 0.01, steps: 2}}"
PROBE = "members.mini={kind: probe, encoder: {asset: hf:sentence-transformers/all-MiniLM-L6-v2}}"
PAIRS = PROBE[:-1] + ", contrastive: {}}"
COPA = (
    "prompts.tasks=[{pattern: so, task: {name: copa, labels: ['1', '2'], options: {'1': a, '2': b}, "
    "patterns: {so: '{premise}, so {option} {mask}.'}, verbalizer: {right: ['Yes'], wrong: ['No']}}, "
    "data: {train: {asset: x, fields: {premise: p, a: a, b: b}, label: l}, "
    "test: {asset: x, fields: {premise: p, a: a, b: b}, label: l}}}]"
)
SPLIT_PAIRS = PROBE[:-1] + ", contrastive: {training: {learning_rate: 0.1, steps: 2, micro_batch_size: 2}}}"
SEPARATE = "members.x={kind: probe, encoder: {asset: x}, pairs: separate}"
BATCHED = "prompts.batched_training=true"
SUBMODELS = ("pet.tune=prompt", "pet.prompt={num_virtual_tokens: 4}", "pet.batched_training=true")
SOFT = ("task.patterns.soft='{text} {soft:2} is {mask}.'", "task.verbalizer={rotten: [bad], fresh: [good]}")
RANDOM = "prompts.methods={random: {init: {kind: normal}}}"
NO_UNLABELED = "data.unlabeled_size=0"
LARGE = (
    "students.large={asset: x, training: {learning_rate: 1, steps: 2}, baseline_training: {learning_rate: 1, steps: 2}}"
)
EARLY = "{learning_rate: 0.1, steps: 2, early_stopping: {}}"
LLM = "members.assistant={kind: llm, url: 'http://localhost:8000/v1', model: m}"
FINETUNED = "members.large={kind: finetuned, encoder: {asset: x}, training: {learning_rate: 0.1, steps: 2}}"
TFIDF = "members.words={kind: tfidf}"
SMALL = "students.small={asset: x, max_length: 32, teacher: large}"
NO_LANGUAGE_MODEL = ("backbone=null", "pet=null", "ppt=null", "prompts=null")
FOLDS = "pet.num_folds=2"
CHOICE = (
    "task.options={rotten: text, fresh: text}",
    "task.patterns={review: '{text} {option} {mask}'}",
    "task.verbalizer={right: ['yes'], wrong: ['no']}",
)
SEARCH = ("pattern_search={edit: {}}", "prompts=null")
SCALED = "ensemble.scaling=held_out"
BIASED = "label_bias=macro_f1"


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, overrides)


def error_of(*overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read(*overrides)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        # members
        (("members.x={kind: probe, encoder: {aset: x}}",), "members.x.encoder.aset", "unknown key 'aset'"),
        ((SEPARATE,), "members.x.pairs", "the patterns have one field, 'text'"),
        ((f"{SEPARATE[:-1]}, contrastive: {{}}}}",), "members.x.pairs", "not the two texts of a pair"),
        (("members.x={kind: pet, backbone: {asset: x}}",), "members.x.training", "needs training settings"),
        (("members.x={kind: tree}",), "members.x", "tree"),
        (("members.x={kind: llm, url: 'ftp://x', model: m}",), "members.x.url", "pattern"),
        ((f"{LLM[:-1]}, descriptions: {{frsh: good}}}}",), "members.assistant.descriptions", "no label 'frsh'"),
        ((f"{LLM[:-1]}, max_cost: 1}}",), "members.assistant.max_cost", "requires prices"),
        (
            (IPET, "members.g2={kind: pet, backbone: {asset: x}, tune: none}"),
            "members.g2",
            "names of generation 2 of pet.",
        ),
        (("pet.patterns=[reviw]",), "pet.patterns", "no pattern 'reviw'"),
        (("pet.training=null",), "pet.training", "needs training settings"),
        (("pet.tune=none", "pet.mlm={}"), "pet.mlm", "trains nothing"),
        (("pet.tune=none", "pet.ipet={}"), "pet.ipet", "trains nothing"),
        ((IPET, "pet.patterns=[review]"), "pet.ipet", "needs two sub-models"),
        (("pet.tune=none", "pet.label_conditioning={}"), "pet.label_conditioning", "trains nothing"),
        (
            (*SUBMODELS, "pet.label_conditioning={}"),
            "pet.label_conditioning",
            "without label_conditioning",
        ),
        (
            ("members.x={kind: finetuned, encoder: {asset: x}}",),
            "members.x.training",
            "missing. Add training: Expected: Length, learning rate and batch size.",
        ),
        ((FINETUNED, "members.large.encoder.tune=head"), "members.large.encoder.tune", "unknown key 'tune'"),
        (
            (FINETUNED, "members.large.strategy=zero3", "members.large.workers=2"),
            "members.large.strategy",
            "partitions",
        ),
        (("members.x={kind: tfidf, analyzer: bytes}",), "members.x.analyzer", "'word'"),
        (("members.x={kind: tfidf, smoothing: 0.1}",), "members.x.smoothing", "is for naive Bayes"),
        (("members.x={kind: nli, asset: x, hypothesis: A film.}",), "members.x.hypothesis", "the same hypothesis"),
        (("members.x={kind: nli, asset: x, label_phrases: {mild: x}}",), "members.x.label_phrases", "no label 'mild'"),
        (("pet=null",), "members", "no sub-models and no other members"),
        # without a language model
        (("backbone=null",), "backbone", "pet uses a language model"),
        (("backbone=null", "pet=null", TFIDF), "backbone", "ppt uses a language model"),
        ((*NO_LANGUAGE_MODEL, TFIDF, "priming={}"), "backbone", "priming uses a language model"),
        (
            (*NO_LANGUAGE_MODEL, TFIDF, "task.verbalizer={}", "verbalizer_search={}"),
            "backbone",
            "verbalizer_search uses a language model",
        ),
        # held-out logits
        ((SCALED,), "pet.num_folds", "needs held-out logits of the trained sub-models"),
        (
            (SCALED, FOLDS, "members.x={kind: pet, backbone: {asset: x}, training: {learning_rate: 1, steps: 2}}"),
            "members.x.num_folds",
            "needs held-out logits of the trained sub-models",
        ),
        (("pet.tune=none", FOLDS), "pet.num_folds", "trains nothing"),
        ((BIASED,), "pet.num_folds", "label_bias: macro_f1 needs held-out logits of the trained sub-models"),
        (
            (BIASED, NO_UNLABELED),
            "baseline.num_folds",
            "needs held-out logits of the baselines",
        ),
        ((*SUBMODELS, FOLDS), "pet.num_folds", "without cross-validation"),
        (("pet.num_folds=1",), "pet.num_folds", "greater than or equal to 2"),
        (("baseline.num_folds=1",), "baseline.num_folds", "greater than or equal to 2"),
        # label words
        (("task.verbalizer={}",), "task.verbalizer", "no label words"),
        (("verbalizer_search={}",), "verbalizer_search", "already has label words"),
        (("task.verbalizer={}", "verbalizer_search={}"), "task.verbalizer", "need label words"),
        (("task.verbalizer={}", "verbalizer_search={}", "data.shots=0"), "data.shots", "needs labeled data"),
        (
            ("task.verbalizer={}", "prompts=null", "verbalizer_search={num_candidates: 5}"),
            "verbalizer_search.num_candidates",
            "lower than num_words",
        ),
        # pattern search
        ((*SEARCH, "backbone=null", "pet=null", "ppt=null", TFIDF), "backbone", "pattern_search uses a language model"),
        (("pattern_search={}",), "pattern_search.edit", "nothing proposes patterns"),
        ((SEARCH[0],), "prompts.tasks.0.pattern", "which the pattern search replaces"),
        ((*SEARCH, "task.verbalizer={}", "verbalizer_search={}"), "pattern_search", "verbalizer_search finds them"),
        ((*SEARCH, "data.shots=0", "baseline=null", "pet.tune=none"), "data.shots", "needs labeled data"),
        ((*SEARCH, "data.shots=1"), "data.shots", "each label has one"),
        ((*SEARCH, "pattern_search.patterns=[reviw]"), "pattern_search.patterns", "no pattern 'reviw'"),
        (
            (*SEARCH, *SOFT, "pet.patterns=[soft]", *SUBMODELS[:2], "pattern_search.patterns=[soft]"),
            "pattern_search.patterns",
            "'soft' has a soft block",
        ),
        ((*SEARCH, *SUBMODELS), "pet.batched_training", "pattern_search finds them later"),
        ((*SEARCH, *CHOICE, "pattern_search.generate={}"), "pattern_search.generate", "multiple choice"),
        ((*SEARCH, "pattern_search.num_folds=1"), "pattern_search.num_folds", "greater than or equal to 2"),
        # training
        (("pet.training.early_stopping={}",), "pet.training.early_stopping", "requires a dev set"),
        (("ppt.training.early_stopping={}",), "ppt.training.early_stopping", "uses no dev set"),
        (
            ("data.dev_shots=2", "prompts.training.early_stopping={}"),
            "prompts.training.early_stopping",
            "requires a dev set",
        ),
        (
            ("data.dev_shots=2", f"prompts.methods={{x: {{training: {EARLY}}}}}"),
            "prompts.methods.x.training.early_stopping",
            "requires a dev set",
        ),
        (("students.small.tune=head",), "distill.training", "without training steps"),
        (("distill.training=null", "baseline=null"), "distill.training", "students.small.tune: full needs training"),
        ((LARGE, "baseline.training=null"), "baseline.training", "students.small.tune: full needs training"),
        (
            ("students.small={asset: x, tune: head, training: {learning_rate: 1, steps: 2}}",),
            "students.small.training",
            "a linear head",
        ),
        ((LARGE, "baseline=null"), "students.large.baseline_training", "no section baseline"),
        (
            ("students.small.training={learning_rate: 1, steps: 2, early_stopping: {}}",),
            "students.small.training.early_stopping",
            "requires a dev set",
        ),
        (
            ("members.x={kind: finetuned, encoder: {asset: x}, training: " + EARLY + "}",),
            "members.x.training.early_stopping",
            "requires a dev set",
        ),
        (
            ("data.dev_shots=2", "pet.training.early_stopping={}", "pet.training.average_last=0.5"),
            "pet.training",
            "average_last keeps an average of the weights",
        ),
        (("students={}",), "students", "at least 1 item"),
        # teachers
        (("students.small.teacher=large",), "students.small.teacher", "no student 'large'"),
        (("students.small.teacher=small",), "students.small.teacher", "small <- small is a circle"),
        (
            (LARGE, SMALL, "students.large.teacher=small"),
            "students.small.teacher",
            "small <- large <- small is a circle",
        ),
        (
            (LARGE, SMALL, "unlabeled_shards={source: {asset: x}}"),
            "students.small.teacher",
            "students of shards learn from the ensemble only",
        ),
        # without unlabeled data
        ((NO_UNLABELED, "baseline=null"), "data", "neither a baseline nor a member that is a classifier"),
        ((NO_UNLABELED, "data.shots=0"), "data", "neither labeled nor unlabeled data"),
        ((NO_UNLABELED, IPET), "pet.ipet", "needs unlabeled data"),
        ((NO_UNLABELED, "pet.mlm={}"), "pet.mlm", "needs unlabeled data"),
        ((NO_UNLABELED, STUDENTS), "pet.self_training", "needs unlabeled data"),
        ((NO_UNLABELED, "learning_curve={shots: [2, 4]}"), "learning_curve.methods", "needs unlabeled data"),
        ((NO_UNLABELED, "unlabeled_shards={source: {asset: x}}"), "unlabeled_shards", "needs unlabeled data"),
        # soft blocks
        (SOFT, "task.patterns.soft", "which only prompt tuning trains"),
        ((*SOFT, "pet.patterns=[soft, review]"), "pet.patterns", "which these sub-models do not train"),
        (
            (*SOFT, "pet.patterns=[soft, review]", "pet.tune=prompt", "pet.prompt={method: p_tuning_v2}"),
            "pet.patterns",
            "which these sub-models do not train",
        ),
        # prompts
        (("prompts.tasks=[]",), "prompts.tasks", "prompts has no task"),
        (("pet.batched_training=true",), "pet.batched_training", "is for soft prompts"),
        (("pet.tune=prompt", "pet.prompt={lora: {}}"), "pet.prompt", "neither adapters nor a linear head"),
        ((BATCHED, "prompts.training.average_last=0.5"), "prompts.batched_training", "not support average_last"),
        ((*SUBMODELS, "pet.training.average_last=0.5"), "pet.batched_training", "not support average_last"),
        (("prompts.methods={x: {lora: {}}}", BATCHED), "prompts.batched_training", "without LoRA"),
        (("prompts.methods={x: {backbone_dropout: true}}", BATCHED), "prompts.batched_training", "backbone_dropout"),
        ((BATCHED, "prompts.training.micro_batch_size=2"), "prompts.batched_training", "not support micro_batch_size"),
        ((BATCHED, "prompts.strategy=ddp"), "prompts.batched_training", "runs on one worker"),
        (("ppt=null",), "prompts.methods.ppt.init", "no section ppt"),
        (("pet.tune=prompt", "pet.prompt={init: ppt}", "ppt=null", "prompts=null"), "pet.prompt.init", "no section"),
        (
            (*SUBMODELS, "task.verbalizer={}", "verbalizer_search={}", "prompts=null"),
            "pet.batched_training",
            "verbalizer_search finds them later",
        ),
        (("prompts.methods={x: {method: p_tuning, rank: 2}}",), "prompts.methods.x.rank", "trained directly"),
        (
            ("ppt.formats=[unified, pair]", "prompts.tasks.0={pattern: review, as_choice: true, format: pair}"),
            "prompts.tasks.0.format",
            "in the format pair",
        ),
        ((COPA, RANDOM, "prompts.loss=vocabulary"), "prompts.loss", "the labels of copa are options"),
        # contrastive tuning
        ((SPLIT_PAIRS,), "members.mini.contrastive.training.micro_batch_size", "compares all texts of a batch"),
        ((PAIRS, "members.mini.strategy=ddp", "members.mini.workers=2"), "members.mini.workers", "so one worker"),
        # prompt pretraining
        (("prompts.tasks.0.format=choice",), "prompts.tasks.0.format", "format choice; ppt.formats has pair."),
        (("ppt.formats=[pair, choice]",), "prompts.tasks.0.format", "in other formats: pair, choice."),
        (("ppt.formats=[pair, choice]", "prompts.tasks.0.format=pair"), "prompts.tasks.1.format", "plot_or_quote"),
        (("ppt=null", RANDOM, "prompts.tasks.1.format=pair"), "prompts.tasks.1.format", "no section ppt"),
        (("ppt.formats=[pair, pair]",), "ppt.formats", "pair is listed twice"),
        (("ppt.formats=[]",), "ppt.formats", "at least 1"),
        (("ppt.formats=[pear]",), "ppt.formats.0", "'pair'"),
        (("ppt.formats=[unified]", "ppt.unified_options=[5, 4]"), "ppt.unified_options", "the minimum 5 is higher"),
        (("ppt.unified_options=[1, 4]",), "ppt.unified_options.0", "greater than or equal to 2"),
        (("ppt.choice_options=27",), "ppt.choice_options", "less than or equal to 26"),
        (("ppt.formats=[choice]",), "ppt.choice_options", "48 tokens are too few for a sentence and 6 options"),
        (("ppt.formats=[unified]",), "ppt.unified_options", "too few for a sentence and 16 options"),
        (("ppt.formats=[choice]", "ppt.choice_options=5", "ppt.corpus.window=3"), "ppt.corpus.window", "4 documents"),
        (("ppt.single.pattern='{body} {mask}'",), "ppt.single.pattern", "must have the field text"),
        # learning curve
        (("learning_curve={shots: [4, 16]}",), "learning_curve.shots", "16 examples per class are more than the 8"),
        (("learning_curve={shots: [2, 4]}", "baseline=null"), "learning_curve.methods", "no section baseline"),
        (("learning_curve={shots: [2, 4], patterns: [odd]}",), "learning_curve.patterns", "review, verdict, question"),
        (("learning_curve={shots: [2, 4], members: [odd]}",), "learning_curve.members", "The recipe has no members"),
        (("learning_curve={shots: [2, 4], ipet: true}",), "learning_curve.ipet", "pet.ipet is not set"),
        (("pet=null", TFIDF, "learning_curve={shots: [2, 4]}"), "learning_curve.members", "no member is part"),
        (("learning_curve={shots: [4]}",), "learning_curve.shots", "at least 2 items"),
    ],
)
def test_a_broken_rule_is_an_error_with_its_key(overrides: tuple[str, ...], key: str, problem: str) -> None:
    error = error_of(*overrides)
    assert error.key == key
    assert problem in str(error)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("pet.seeds=[0]", "pet.tune"),
        (PROBE, "members.mini"),
        (FINETUNED, "members.large"),
        (TFIDF, "members.words"),
        ("members.x={kind: word_vectors, asset: x}", "members.x"),
        ("priming={}", "priming"),
        ("distill.gold_weight=0.5", "distill.gold_weight"),
        ("baseline={training: {learning_rate: 0.1, steps: 2}}", "baseline"),
    ],
)
def test_without_labeled_data_sections_that_need_it_are_errors(override: str, key: str) -> None:
    base = ["data.shots=0", "baseline=null", "prompts=null"]
    if key != "pet.tune":
        base += ["pet.tune=none"]
    error = error_of(*base, override)
    assert error.key == key
    assert "needs labeled data" in error.problem


@pytest.mark.parametrize(
    "overrides",
    [
        (IPET, "pet.patterns=[review]", "pet.seeds=[0, 1]"),
        (COPA.replace("pattern: so,", "pattern: so, as_choice: true,"), RANDOM, "prompts.loss=vocabulary"),
        (IPET, "members.g3={kind: pet, backbone: {asset: x}, tune: none}"),
        (IPET, "members.g1={kind: probe, encoder: {asset: x}}"),
        (*SOFT, "prompts.tasks=[{pattern: soft}]"),
        ("ppt=null", RANDOM),
        ("ppt.formats=[pair, choice]", "ppt.choice_options=5", RANDOM),
        ("data.dev_shots=2", "pet.training.early_stopping={}"),
        (LARGE, "students.frozen={asset: x, tune: head}"),
        (NO_UNLABELED, "distill={}"),
        (NO_UNLABELED, "baseline=null", PROBE),
        (NO_UNLABELED, "baseline=null", FINETUNED),
        (NO_UNLABELED, "baseline=null", TFIDF),
        ("data.dev_shots=2", FINETUNED, "members.large.training.early_stopping={}"),
        ("pet=null", TFIDF),
        ("pet=null", TFIDF, "learning_curve={shots: [2, 4], members: [words]}"),
        (*NO_LANGUAGE_MODEL, "task.verbalizer={}", TFIDF, FINETUNED),
        (LARGE, SMALL),
        (SCALED, FOLDS, PROBE, FINETUNED, TFIDF),
        (SCALED, "pet.tune=none"),
        (NO_UNLABELED, "learning_curve={shots: [2, 4], methods: [baseline]}"),
    ],
)
def test_a_recipe_that_breaks_no_rule_is_read(overrides: tuple[str, ...]) -> None:
    assert read(*overrides).name == "smoke"


def test_every_pattern_of_multiple_choice_has_the_option() -> None:
    task: dict[str, Any] = {
        "name": "copa",
        "labels": ["1", "2"],
        "options": {"1": "choice1", "2": "choice2"},
        "patterns": {"so": "{premise} {mask}."},
        "verbalizer": {"right": ["yes"], "wrong": ["no"]},
    }
    error = error_of(f"task={yaml.safe_dump(task, default_flow_style=True, width=10**6).strip()}", "prompts=null")
    assert (error.key, "lacks {option}" in error.problem) == ("task.patterns.so", True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of the smoke recipe for a token-level task of each kind."""
    return token_level_overrides(tmp_path_factory.mktemp("token-level"))


WORKS = "prompts.token_classification.works"


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("prompts.methods.v2.head=verbalizer", "prompts.methods.v2.head", "token-level tasks use a linear head"),
        ("prompts.methods.v2.hard_prompt_steps=2", "prompts.methods.v2.hard_prompt_steps", "plain prompt tuning"),
        (
            "prompts.methods.v2.init={kind: label_words}",
            "prompts.methods.v2.init",
            "token-level tasks use a linear head",
        ),
        (f"{WORKS}.labels=[O, O]", f"{WORKS}.labels", "listed twice"),
        (f"{WORKS}.format=choice", f"{WORKS}.format", "no prompt is pretrained"),
        ("ppt.formats=[pair, single]", f"{WORKS}.format", "no format matches the task works"),
        (f"{WORKS}.data.train.label=null", f"{WORKS}.data.train.label", "label is not set"),
        ("prompts.training.early_stopping={}", "prompts.training.early_stopping", "requires a dev set"),
    ],
)
def test_a_broken_rule_of_a_token_level_task_is_an_error(
    override: str, key: str, problem: str, words: tuple[str, ...]
) -> None:
    error = error_of(*words, "prompts.tasks=[]", override)
    assert error.key == key
    assert problem in str(error)


def test_two_tasks_cannot_have_the_same_name(words: tuple[str, ...]) -> None:
    same = words[2].replace("{answers: {data", "{works: {data")
    assert "two tasks have the name works" in str(error_of(*words[:2], same))
    assert "two tasks have the same name" in str(error_of("prompts.tasks=[{pattern: review}, {pattern: verdict}]"))


def test_all_rules_are_listed() -> None:
    from pipelines.schema import member_rules, rules, search_rules

    def defined(module: ModuleType) -> set[str]:
        names = (name for name in vars(module) if name.startswith("check_"))
        return {name for name in names if getattr(module, name).__module__ == module.__name__}

    elsewhere = {"check_tasks", "check_problem_type", "check_members", "check_pattern_search", "check_chain_of_thought"}
    elsewhere |= {"check_learning_rates", "check_transfer", "check_instructions", "check_losses"}
    elsewhere |= {"check_demonstrations", "check_downstream_tasks"}
    assert defined(rules) - {"check_rules"} | elsewhere == {rule.__name__ for rule in RULES}
    for module, check in (
        (member_rules, member_rules.check_members),
        (search_rules, search_rules.check_pattern_search),
    ):
        called = {name for name in check.__code__.co_names if name.startswith("check_")}
        assert defined(module) - {check.__name__} == called


STARS = "prompts.regression.stars"


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        (f"{STARS}.words=null", "prompts.methods.v2.head", "has no words for its lowest and highest value"),
        (f"{STARS}.range=[5, 1]", f"{STARS}.range", "are not a lowest and a highest value"),
        (f"{STARS}.pattern='{{text}}'", f"{STARS}.pattern", "mask"),
        (f"{STARS}.pattern='{{text}} {{soft:3}} {{mask}}'", "prompts.methods.v2", "has soft blocks"),
        (f"{STARS}.data.train.label=null", f"{STARS}.data.train.label", "label is not set"),
        ("ppt.formats=[pair, single]", f"{STARS}.format", "no format matches the task stars"),
        ("prompts.training.early_stopping={}", "prompts.training.early_stopping", "requires a dev set"),
    ],
)
def test_a_broken_rule_of_a_regression_task_is_an_error(override: str, key: str, problem: str, tmp_path: Path) -> None:
    error = error_of(*regression_overrides(tmp_path), "prompts.tasks=[]", override)
    assert error.key == key
    assert problem in str(error)


TABLES = "prompts.generation.tables"


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("prompts.methods.v2.head=linear", "prompts.methods.v2.head", "a generation task has none"),
        ("prompts.methods.v2.init={kind: label_words}", "prompts.methods.v2.init", "a generation task has none"),
        (f"{TABLES}.pattern='{{name}} {{mask}}'", f"{TABLES}.pattern", "the target follows the pattern"),
        (f"{TABLES}.pattern='{{name}} {{soft:3}}'", "prompts.methods.v2", "has soft blocks"),
        (f"{TABLES}.decoding={{num_beams: 4}}", f"{TABLES}.decoding.num_beams", "is for strategy: beam"),
        (f"{TABLES}.decoding={{top_k: 4}}", f"{TABLES}.decoding.top_k", "unknown key"),
        (f"{TABLES}.data.train.label=null", f"{TABLES}.data.train.label", "label is not set"),
        (f"{TABLES}.data.test.label_map={{a: b}}", f"{TABLES}.data.test.label_map", "no effect"),
        (f"{TABLES}.format=choice", f"{TABLES}.format", "no prompt is pretrained"),
        ("prompts.training.early_stopping={}", "prompts.training.early_stopping", "requires a dev set"),
        ("task.name=tables", TABLES, "two tasks have the name tables"),
    ],
)
def test_a_broken_rule_of_a_generation_task_is_an_error(override: str, key: str, problem: str, tmp_path: Path) -> None:
    error = error_of(*generation_overrides(tmp_path), "prompts.tasks=[]", override)
    assert error.key == key
    assert problem in str(error)
