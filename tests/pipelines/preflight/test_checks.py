"""Checks before a run: bad input is an error within seconds, with file, line, key and remedy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.preflight.checks import check_corpus, check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import errors_located_in
from pipelines.schema.sections.prompts import PptSection
from stages.common.errors import DataError, InputError
from tests.support.generation_tasks import generation_overrides
from tests.support.recipe_files import RECIPE, ppt_section
from tests.support.regression_data import regression_overrides
from tests.support.token_level_tasks import token_level_overrides

IN_TIME_S = 6.0


def error_of(path: Path) -> InputError:
    """Returns the error of the recipe at `path`, which must be found within seconds."""
    start = time.monotonic()
    with pytest.raises(InputError) as caught, errors_located_in(path):
        check_recipe(read_recipe(path, PipelineConfig), lambda *task: None)
    assert time.monotonic() - start < IN_TIME_S
    return caught.value


def change(path: Path, old: str, new: str) -> str:
    """Replaces text that occurs once in the recipe. Returns the new text."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path.read_text()


def test_a_valid_recipe_passes_all_checks(recipe: Path) -> None:
    tasks: list[str] = []
    check_recipe(
        read_recipe(recipe, PipelineConfig), lambda task, done, total: tasks.append(f"{task}: {done} of {total}")
    )
    assert tasks[-1] == "checking data, patterns and label words: 1 of 1"


def test_a_recipe_without_a_language_model_passes_all_checks(recipe: Path) -> None:
    overrides = ("backbone=null", "pet=null", "prompts=null", "task.verbalizer={}", "members.words={kind: tfidf}")
    config = read_recipe(recipe, PipelineConfig, overrides)
    check_recipe(config, lambda *task: None)
    with pytest.raises(InputError, match="the recipe has no language model") as caught:
        _ = config.language_model
    assert caught.value.key == "backbone"


LLM = "members.assistant={kind: llm, url: 'http://127.0.0.1:9/v1', model: m, api_key_variable: LLM_KEY}"


def test_requests_of_a_language_model_are_estimated(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))

    def check(*overrides: str) -> str:
        return " ".join(check_recipe(read_recipe(recipe, PipelineConfig, (LLM, *overrides)), lambda *task: None))

    with pytest.raises(InputError, match="the environment variable LLM_KEY is not set") as caught:
        check()
    assert caught.value.key == "members.assistant.api_key_variable"
    monkeypatch.setenv("LLM_KEY", "secret")
    assert "members.assistant sends up to" in check() and "cost" not in check()
    assert "which cost about" in check("members.assistant.prices={input: 1000, output: 1000}")
    with pytest.raises(InputError, match="but max_requests is 3"):
        check("members.assistant.max_requests=3")


BACKBONE, STUDENT = "backbone:\n  asset: ", "small:\n    asset: "
NO_PACKAGE = "pypi:no-such-package-of-clozeline==1/"
POOL_LINE_1 = "line 1: there is no column"

BAD = [
    # patterns
    ("{text} It was {mask}.", "{text} It was.", "task.patterns.review", "has no {mask}", "exactly once"),
    ("{mask}: {text}", "{mask}: {text} {mask}", "task.patterns.verdict", "has 2 masks", "exactly once"),
    ("{mask}: {text}", "{mask}: {body}", "data.pool.fields", "the field 'body'", "body: COLUMN"),
    ("{text} is a {mask}", "{body} is a {mask}", "prompts.tasks.1.data.pool", "the field 'body'", "COLUMN"),
    # data
    ("fields: {text: text}", "fields: {text: body}", "data.pool", f"{POOL_LINE_1} 'body'", "text, category"),
    ("label: category", "label: kind", "data.pool", f"{POOL_LINE_1} 'kind'", "text, category"),
    ("labels: [rotten, fresh]", "labels: [rotten, fresh, odd]", "task.verbalizer", "label 'odd'", "odd: {review"),
    ("labels: [plot, quote]", "labels: [plot, book]", "prompts.tasks.1.task.verbalizer.quote", "'quote'", "spelling"),
    ("label: kind}", "label: kind, label_map: {plot: s}}", "prompts.tasks.1.data.pool", "line 1: the label", "_map"),
    ("shots: 4", "shots: 40", "data.shots", "shots is 40 per class", "Lower data.shots"),
    ("test_size: 10", "test_size: 910", "data.test_size", "test_size is 910", "Lower data.test_size"),
    ("shots: 2\n", "shots: 20\n", "prompts.tasks.1.data.shots", "shots is 20 per class", "Lower"),
    # label words
    ("verdict: [dull]", "verdict: [映画]", "task.verbalizer.rotten", "'映画' of 'rotten' is not in", "another"),
    ("[good, great]", "[good, 映画]", "task.verbalizer.fresh", "'映画' of 'fresh' is not in", "another"),
    ("quote: [review]", "quote: [映画]", "prompts.tasks.1.task.verbalizer.quote", "is not in", "another"),
    ("{mask}: {text}", "{mask}: {text} {soft:3}", "task.patterns.verdict", "has a soft block", "Remove {soft:...}"),
    ("rotten: {review: [bad]", "rotten: {review: [great, good]", "task.verbalizer", "same words", "its own words"),
    # keys
    ("shots: 4", "shotz: 4", "data.shotz", "unknown key 'shotz'", "Did you mean 'shots'?"),
    # assets
    ("films.jsonl", "flims.jsonl", "data.pool.asset", "flims.jsonl' does not exist", "Correct the path"),
    (BACKBONE, f"{BACKBONE}{NO_PACKAGE}", "backbone.asset", "cannot be reached", "hf:ORG/NAME"),
    (BACKBONE, f"{BACKBONE}http://127.0.0.1:9/", "backbone.asset", "cannot be reached", "a path"),
    (STUDENT, f"{STUDENT}pypi:six/", "students.small.asset", "not a package reference", "NAME==VERSION"),
    # lengths
    ("32\nstudents", "57\nstudents", "backbone.max_length", "57 tokens after a prompt of 8 vectors are more", "to 56"),
    ("32\npet", "65\npet", "students.small.max_length", "65 tokens are more than the 64 positions", "to 64"),
]  # fmt: skip
"""Old text, new text, and key, problem and remedy of the error."""


@pytest.mark.parametrize(("old", "new", "key", "problem", "remedy"), BAD, ids=[f"{row[2]}-{row[3]}" for row in BAD])
def test_bad_input_is_an_error_with_its_line(
    old: str, new: str, key: str, problem: str, remedy: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    text = change(recipe, old, new)
    error = error_of(recipe)
    assert error.key.startswith(key)
    assert problem in error.problem
    assert remedy in error.remedy
    file, _, line = error.where.rpartition(":")
    assert file == str(recipe)
    shown = text.splitlines()[int(line) - 1].strip()
    before = RECIPE.replace("ROOT", str(recipe.parent))
    assert shown not in before or shown.partition(":")[0] in error.key.split("."), (
        "the changed line, or the line of the key"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "  ", "category": "fresh"}', "the field 'text' is empty"),
        ('{"category": "fresh"}', "there is no column 'text'"),
        ('{"text": "fine", "category": "stale"}', "the label 'stale' is not in labels"),
        ('{"text": "fine", "category": "fresh"', "not JSON"),
        ('{"text": "fi\xe9ne", "category": "fresh"}', "not UTF-8"),
    ],
)
def test_a_wrong_line_of_a_data_file_is_an_error(line: str, problem: str, recipe: Path) -> None:
    data = recipe.parent / "films.jsonl"
    data.write_bytes(data.read_bytes() + line.encode("latin-1") + b"\n")
    error = error_of(recipe)
    assert error.problem.startswith("films.jsonl, line 41: ")
    assert problem in error.problem
    assert error.key == "data.pool"
    assert error.where == f"{recipe}:12"
    assert error.remedy


def document(number: int) -> str:
    return " ".join(f"This is sentence {place} of text {number}." for place in range(4))


def test_check_corpus_reads_until_there_are_enough_documents(tmp_path: Path) -> None:
    lines = [document(number) for number in range(5)]
    assert check_corpus(ppt_section(tmp_path, lines, formats=["pair", "choice", "single"])) is None
    with pytest.raises(DataError, match=r"has 4 documents .* the format choice needs 5") as caught:
        check_corpus(ppt_section(tmp_path, lines[1:], formats=["pair", "choice"]))
    assert caught.value.key == "ppt.corpus"
    with pytest.raises(DataError, match="there is no column 'body'") as caught:
        check_corpus(ppt_section(tmp_path, lines, corpus={"source": {"asset": str(tmp_path / "corpus.txt"),
                                                                 "fields": {"text": "body"}}}))  # fmt: skip
    assert caught.value.key == "ppt.corpus.source"
    damaged = tmp_path / "corpus.txt"
    damaged.write_bytes(("\n".join(lines) + "\n" * 70_000).encode() + b"\xff")
    values = {"corpus": {"source": {"asset": str(damaged)}}, "training": {"learning_rate": 0.1, "steps": 1}}
    assert check_corpus(PptSection.model_validate(values)) is None, "the damaged end is not read"


def test_files_of_generation_tasks_are_read(tmp_path: Path) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, generation_overrides(tmp_path))
    with (tmp_path / "tables.jsonl").open("a") as file:
        file.write('{"name": "News", "food": "bad", "sentence": ""}\n')
    with pytest.raises(InputError, match=r"line 13: the target 'sentence' is empty") as caught:
        check_recipe(config, lambda *task: None)
    assert caught.value.key == "prompts.generation.tables.data.train"


def test_files_of_regression_tasks_are_read(tmp_path: Path) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, regression_overrides(tmp_path, range="[1, 3]"))
    with pytest.raises(InputError, match=r"'stars' is \d, which is not between 1 and 3") as caught:
        check_recipe(config, lambda *task: None)
    assert caught.value.key == "prompts.regression.stars.data.train"


def test_files_of_token_level_tasks_are_read(tmp_path: Path) -> None:
    labels = "prompts.token_classification.works.labels=[O, B-PLAY]"
    config = read_recipe(find_recipe("smoke"), PipelineConfig, (*token_level_overrides(tmp_path), labels))
    with pytest.raises(InputError, match=r"line 1: the label 'B-WORK' is not in labels") as caught:
        check_recipe(config, lambda *task: None)
    assert caught.value.key == "prompts.token_classification.works.data.train"
