"""Token labels and answer spans in a recipe: their steps, what is refused, and one real run of both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.preflight.checks import check_recipe
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from stages.common.errors import InputError
from tests.support.services import service

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(300)

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"
FILMS = ["the film was good", "a dull plot", "the film was bad", "a warm story about the film"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of the smoke recipe for a task of each kind."""
    folder = tmp_path_factory.mktemp("annotated")
    tagged = [
        {"tokens": text.split(), "tags": ["B-WORK" if word == "film" else "O" for word in text.split()]}
        for text in FILMS * 4
    ]
    asked = [
        {"question": "What is it?", "context": text, "answers": {"text": [text[-4:]], "answer_start": [len(text) - 4]}}
        for text in FILMS * 4
    ]
    for name, rows in (("tagged", tagged), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = f"{{asset: {folder / 'tagged.jsonl'}, fields: {{words: tokens}}, label: tags}}"
    spans = f"{{asset: {folder / 'asked.jsonl'}, fields: {{question: question, context: context}}, label: answers}}"
    return (
        METHODS,
        f"prompts.tokens={{works: {{labels: [O, B-WORK], data: {{train: {tokens}, test: {tokens}, train_size: 8}}}}}}",
        f"prompts.spans={{answers: {{data: {{train: {spans}, test: {spans}}}}}}}",
    )


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def refused(*overrides: str) -> InputError:
    with pytest.raises(RecipeError) as caught:
        plan(*overrides)
    return caught.value


def test_every_task_method_and_seed_is_a_step(words: tuple[str, ...]) -> None:
    found = plan(*words, "prompts.seeds=[0, 1]")
    names = [
        f"prompts/{task}/{method}/{seed}"
        for task in ("works", "answers")
        for method in ("v2", "ppt")
        for seed in (0, 1)
    ]
    assert set(names) <= set(found)
    assert {step.name for step in found["prompts/works/ppt/0"].upstream()} == {"data/works", "ppt/pair"}
    assert {step.name for step in found["prompts/answers/v2/1"].upstream()} == {"data/answers"}
    assert len({found[name].config.seed for name in names}) == len(names)
    together = plan(*words, "prompts.batched_training=true")
    assert {step.name for step in together["prompts/works/v2/0"].upstream()} == {"data/works"}, "trained on its own"
    alone = plan(*words, "prompts.tasks=[]")
    assert not any(name.startswith("prompts/rotten_tomatoes") for name in alone)


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("prompts.methods.v2.head=words", "prompts.methods.v2.head", "read by a linear head"),
        ("prompts.methods.v2.hard_prompt_steps=2", "prompts.methods.v2", "plain prompt tuning"),
        ("prompts.methods.v2.start={kind: label_words}", "prompts.methods.v2.start", "read by a linear head"),
        ("prompts.tokens.works.labels=[O, O]", "prompts.tokens.works", "listed twice"),
        ("prompts.tokens.works.format=choice", "prompts.tokens.works.format", "no prompt is pretrained"),
        ("ppt.formats=[pair, single]", "prompts.tokens.works.format", "no format is like the task works"),
        ("prompts.tokens.works.data.train.label=null", "prompts.tokens.works.data", "label is not given"),
        ("prompts.training.early_stopping={}", "prompts.training.early_stopping", "needs a development set"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, key: str, problem: str, words: tuple[str, ...]) -> None:
    error = refused(*words, "prompts.tasks=[]", override)
    assert error.key.startswith(key), str(error)
    assert problem in str(error)


def test_a_name_is_taken_once(words: tuple[str, ...]) -> None:
    same = words[2].replace("{answers: {data", "{works: {data")
    assert "two tasks have the name works" in str(refused(*words[:2], same))
    assert "there is no task" in str(refused("prompts.tasks=[]"))


def test_files_are_read_before_anything_runs(words: tuple[str, ...]) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, (*words, "prompts.tokens.works.labels=[O, B-PLAY]"))
    with pytest.raises(InputError, match=r"line 1: the label 'B-WORK' is not in labels") as caught:
        check_recipe(config, lambda *_: None)
    assert caught.value.key == "prompts.tokens.works.data.train"


def test_a_seq2seq_model_takes_no_deep_prompts_for_them(words: tuple[str, ...]) -> None:
    from pipelines.preflight.models import check_token_level_family

    config = read_recipe(find_recipe("smoke"), PipelineConfig, words)
    check_token_level_family(config, "masked")
    with pytest.raises(InputError, match="read in the encoder") as caught:
        check_token_level_family(config, "seq2seq")
    assert caught.value.key == "prompts.methods.v2.method"


@pytest.fixture(scope="module")
def annotated(
    words: tuple[str, ...], clozeline: Clozeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The store of a run of both kinds of task, and the overrides of its recipe."""
    overrides = [item for word in (*words, "name=annotated", "zero_shot=false") for item in ("-o", word)]
    store = tmp_path_factory.mktemp("annotated-run") / "store"
    done = clozeline("run", "smoke", *overrides, "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    return store, overrides


def folder_of(task: str, store: Path) -> str:
    """The step of a prompt."""
    return str(next((store / "prompts" / task / "v2" / "0").iterdir()))


def test_a_run_measures_words_and_answers(annotated: tuple[Path, list[str]]) -> None:
    store, _ = annotated
    report = json.loads((store / "reports" / "annotated" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["prompts/works/v2"]["entity_f1"] is not None
    assert rows["prompts/works/v2"]["mcc"] is None
    assert rows["prompts/answers/ppt"]["exact_match"] == rows["prompts/answers/ppt"]["accuracy"]
    assert (rows["prompts/works/v2"]["num_labeled"], rows["prompts/works/v2"]["num_test"]) == (8, 16)
    page = (store / "reports" / "annotated" / "report.md").read_text()
    assert "entity F1" in page
    assert "data/answers: 16 test texts stand in the training files too: a leak." in page


def test_predict_labels_words_and_finds_answers(annotated: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    store, overrides = annotated

    def predict(task: str, line: str) -> dict[str, object]:
        answer = clozeline("predict", folder_of(task, store), "--input", "-", stdin=line + "\n")
        assert answer.returncode == 0, answer.stderr
        found: dict[str, object] = json.loads(answer.stdout)
        return found

    labelled = predict("works", "the film was good")
    assert labelled["words"] == ["the", "film", "was", "good"]
    assert len(labelled["labels"]) == 4
    assert predict("answers", '{"question": "What is it?", "context": "a dull plot"}')["answer"] in "a dull plot"
    wrong = clozeline("predict", folder_of("works", store), "--input", "-", stdin='{"words": 3}\n')
    assert wrong.returncode == 2
    assert "line 1: there are no words" in wrong.stderr
    asked = ("predict", "smoke", "--prompts", "v2", "--input", "-", *overrides, "--store", str(store))
    both = clozeline(*asked, stdin='{"task": "works"}\n')
    assert both.returncode == 2
    assert "which has no prompt here" in both.stderr


def test_words_are_labelled_over_http_as_predict_does(annotated: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    folder = folder_of("works", annotated[0])
    done = clozeline("predict", folder, "--input", "-", stdin="\n".join(FILMS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    assert {label for line in expected for label in line["labels"]} <= {"O", "B-WORK"}
    with service(folder) as found:
        example = found.ask("GET", "/").body["example"]["POST /predict"]
        assert found.ask("POST", "/predict", example).status == 200, "what it shows works"
        assert found.predict(FILMS) == expected
        rows = [{"words": text.split()} for text in FILMS]
        assert found.ask("POST", "/predict", {"inputs": rows}).body["predictions"] == expected
        wrong = found.ask("POST", "/predict", {"inputs": [rows[0], {"words": 3}]})
    assert (wrong.status, wrong.body["field"]) == (422, "inputs[1].words")
    assert "no words" in wrong.body["error"]


def test_answers_are_found_over_http_as_predict_does(annotated: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    folder = folder_of("answers", annotated[0])
    rows = [{"question": "What is it?", "context": text} for text in FILMS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    expected = [
        json.loads(line) for line in clozeline("predict", folder, "--input", "-", stdin=lines).stdout.splitlines()
    ]
    with service(folder) as found:
        answers = found.ask("POST", "/predict", {"inputs": rows}).body["predictions"]
        plain = found.ask("POST", "/predict", {"texts": FILMS})
        missing = found.ask("POST", "/predict", {"inputs": [{"question": "What?"}]})
    assert [item["answer"] for item in answers] == [item["answer"] for item in expected]
    assert all(item["answer"] in row["context"] for item, row in zip(answers, rows, strict=True))
    assert (plain.status, plain.body["field"]) == (422, "texts")
    assert (missing.status, missing.body["field"]) == (422, "inputs[0].context")
