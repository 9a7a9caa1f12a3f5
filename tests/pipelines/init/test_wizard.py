"""`clozeline init`: flags, questions and errors."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml

from pipelines.cli.views import terminal
from pipelines.dag import fewshot
from pipelines.schema import reference
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.serving import batch_inference
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from tests.support.init_files import TOPICS, draw_splits, init, init_error, tickets, write_csv
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def test_init_writes_a_complete_recipe_that_plans(backbone: str, clozeline: Clozeline, tmp_path: Path) -> None:
    tickets()
    flags = ("--output", "tickets.yaml", "--backbone", backbone, "--student", backbone)
    done = clozeline("init", "tickets.csv", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["next", "clozeline", "run", "tickets.yaml"]
    text = Path("tickets.yaml").read_text()
    config = read_recipe(Path("tickets.yaml"), PipelineConfig)
    assert (config.name, config.task.name, config.task.labels) == ("tickets", "tickets", ("billing", "bug", "shipping"))
    assert config.data.pool is not None
    assert (config.data.pool.asset, config.data.pool.fields, config.data.pool.label) == (
        "tickets.csv",
        {"text": "message"},
        "team",
    )
    assert config.task.verbalizer == {label: [label] for label in TOPICS}
    assert config.baseline and config.distill.training and config.pet.tune == "lora"
    assert text.count("#") >= 10 and "docs/reference/recipe.md" in text
    assert list(jsonschema.Draft202012Validator(reference.recipe_schema()).iter_errors(yaml.safe_load(text))) == []
    planned = clozeline("plan", "tickets.yaml", "--store", "store", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("RUN") == len(fewshot.build_steps(config))


@pytest.mark.slow
def test_recipe_of_init_runs(start: Callable[..., PipelineConfig], clozeline: Clozeline, tmp_path: Path) -> None:
    start(tickets(), "--shots", "4")
    short = ("-o", "pet.training.epochs=1", "-o", "distill.training.steps=3", "-o", "baseline.training.steps=3", "-o")
    arguments = ("run", "made.yaml", "--store", "store", *short, "distill.seeds=[0]", "-o", "baseline.seeds=[0]")
    done = clozeline(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student" in done.stdout and "zero_shot/about" in done.stdout


def test_init_scores_patterns_outside_the_test_set(backbone: str) -> None:
    done = init(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone)
    assert done.exit_code == 0, done.exception
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    splits = draw_splits(config)
    examples = [*splits.train, *splits.unlabeled]
    test_texts = {item.fields["text"] for item in splits.test}
    assert examples and not test_texts & {item.fields["text"] for item in examples}
    lines = [json.dumps(item.fields) for item in examples]
    for name in config.task.patterns:
        logits = [
            json.loads(line)["logits"]
            for line in batch_inference.score_lines(config.task, [name], config.backbone, lines, "here")
        ]
        correct = [max(row, key=row.get) == item.label for row, item in zip(logits, examples, strict=True)]
        printed = re.search(rf"^ {name} +(\d+\.\d)", done.output, re.M)
        assert printed and float(printed[1]) == pytest.approx(100 * sum(correct) / len(correct), abs=0.051)
    assert f"on {len(examples)} labeled examples that" in done.output
    majority = max(Counter(item.label for item in examples).values()) / len(examples)
    assert re.search(rf"most frequent label\) +{100 * majority:.1f}", done.output)


def test_no_score_prints_no_table(backbone: str) -> None:
    done = init(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "zero-shot" not in done.output and Path("made.yaml").exists()


def test_flags_set_all_values(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"{TOPICS[name]} of case {i}", f"title {i}", name, "x") for i in range(30) for name in ("billing", "bug")]
    data = write_csv("some data.csv", ("body", "title", "right", "label"), rows)
    config = start(
        data, "--name", "mine", "--text", "body", "--label", "right", "--shots", "3", "--test-size", "7",
        "--pattern", r"asks={title}: {text}\nTopic: {mask}.", "--pattern", "says={text} is {mask}",
        "--label-words", "billing=invoice,the invoice", "--label-words", "bug=crash",
    )  # fmt: skip
    assert (config.name, config.data.shots, config.data.test_size) == ("mine", 3, 7)
    assert config.data.unlabeled_size == 60 - 7 - 6
    assert config.task.patterns == {"asks": "{title}: {text}\nTopic: {mask}.", "says": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "the invoice"], "bug": ["crash"]}
    assert config.data.pool is not None
    assert config.data.pool.fields == {"title": "title", "text": "body"}
    assert config.data.pool.label == "right"
    assert "clozeline run made.yaml" in Path("made.yaml").read_text()


def test_name_defaults_to_the_name_of_the_file(backbone: str) -> None:
    done = init(tickets("My Tickets.csv"), "--backbone", backbone, "--student", backbone, "--no-score")
    assert done.exit_code == 0, done.exception
    assert read_recipe(Path("my_tickets.yaml"), PipelineConfig).name == "my_tickets"


def test_models_default_to_those_of_the_demo(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    demo = read_recipe(ROOT / "pipelines/recipes/demo.yaml", PipelineConfig)
    here = demo.model_copy(update={"backbone": BackboneConfig(asset=backbone)})
    monkeypatch.setattr("pipelines.init.wizard.read_recipe", lambda *_: here)
    assert init(tickets(), "--output", "made.yaml", "--no-score").exit_code == 0
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert (config.backbone.asset, config.students["small"].asset) == (backbone, demo.students["small"].asset)
    assert config.pet.lora == demo.pet.lora, "adapters on the same layers as in the demo"


def test_max_length_fits_the_texts(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(" ".join(["crash"] * 50) + f" case {i}", names[i % 2]) for i in range(40)]
    config = start(write_csv("long.csv", ("text", "label"), rows))
    assert 56 <= config.backbone.max_length <= 96
    assert start(tickets(), "--force").backbone.max_length == 32


@pytest.fixture
def interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)


@pytest.mark.usefixtures("interactive")
def test_wizard_asks_again_after_a_wrong_answer(backbone: str) -> None:
    answers = ["massage", "message", "message", "id", "team", "My Name", "mine"]
    answers += ["/no/where", backbone, "/no/where", backbone]
    answers += ["said={text} is", "said={text} is {mask}", "", "映画", "invoice, parcel", "", "invoice,parcel", "crash"]
    answers += ["none", "4", "9"]
    done = init(tickets(), "--output", "made.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, (done.exception, done.output)
    for error in (
        "has no column 'massage'", "is the column of the text", "looks like text, not labels", "is not a valid name",
        "--backbone REF", "--student REF", "has no {mask}", "not in the backbone's vocabulary", "have the same words",
        "is not a number of examples",
    ):  # fmt: skip
        assert done.output.count(error) == 1, error
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.data.pool is not None
    assert (config.name, config.data.pool.label, config.data.shots, config.data.test_size) == ("mine", "team", 4, 9)
    assert config.task.patterns == {"said": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "parcel"], "bug": ["bug"], "shipping": ["crash"]}


@pytest.mark.usefixtures("interactive")
def test_enter_selects_the_default(backbone: str) -> None:
    flags = (tickets(), "--backbone", backbone, "--student", backbone, "--no-score")
    assert init(*flags, "--output", "asked.yaml", answers="\n" * 20).exit_code == 0
    assert init(*flags, "--output", "given.yaml", "--yes", "--name", "asked").exit_code == 0
    asked, given = (Path(name).read_text().splitlines()[3:] for name in ("asked.yaml", "given.yaml"))
    assert asked == given and len(asked) > 40


@pytest.mark.usefixtures("interactive")
def test_wizard_does_not_ask_what_flags_set(backbone: str) -> None:
    done = init(
        tickets(), "--output", "made.yaml", "--name", "x", "--text", "message", "--label", "team",
        "--backbone", backbone, "--student", backbone,
        "--pattern", "a={text} {mask}", "--shots", "3", "--test-size", "5", "--no-score",
        *itertools.chain.from_iterable(("--label-words", f"{name}={name}") for name in TOPICS), answers="",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception


@pytest.mark.usefixtures("interactive")
def test_end_of_the_answers_is_an_error(backbone: str) -> None:
    assert "--yes" in init_error(tickets(), "--backbone", backbone, answers="message\n")


def test_init_overwrites_only_with_force(backbone: str, start: Callable[..., PipelineConfig]) -> None:
    Path("made.yaml").write_text("mine")
    done = init(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert isinstance(done.exception, InputError) and "--force" in str(done.exception)
    assert Path("made.yaml").read_text() == "mine"
    assert start(tickets(), "--force").name == "made"


def test_recipe_is_written_completely_or_not_at_all(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    error = init_error(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "cannot write made.yaml (No space left on device)" in error and "--output" in error


def test_missing_folder_is_an_error(backbone: str) -> None:
    error = init_error(
        tickets(), "--output", "no/made.yaml", "--backbone", backbone, "--student", backbone, "--no-score"
    )
    assert "cannot write no/made.yaml" in error


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--name", "My Name"), ["'My Name' is not a valid name", "--name my_name"]),
        (("--pattern", "topic"), ["'topic' is not a pattern", "NAME=TEXT"]),
        (("--pattern", "Topic={text} {mask}"), ["is not a pattern with a name"]),
        (("--pattern", "topic={text}"), ["has no {mask}", "--pattern topic=TEXT"]),
        (("--pattern", "topic={txt} {mask}"), ["uses {txt}", "{text}, {id}, {message}, {team}"]),
        (("--pattern", "topic={option} {text} {mask}"), ["uses {option}"]),
        (("--pattern", "topic={text} {soft:3} {mask}"), ["soft block", "--pattern topic=TEXT"]),
        (("--pattern", "a={text} {mask}", "--pattern", "a={text}: {mask}"), ["'a' is given twice"]),
        (("--label-words", "bugs=crash"), ["has none of the labels billing, bug, shipping"]),
        (("--label-words", "bug=crash", "--label-words", "bug=case"), ["'bug' twice"]),
        (("--label-words", "bug=,"), ["the label 'bug' has no words", "--label-words bug=WORD,WORD"]),
        (
            ("--label-words", "bug=映画"),
            ["'映画' of 'bug' is not in the backbone's vocabulary", "--label-words bug=WORD,WORD"],
        ),
        (("--label-words", "bug=billing"), ["have the same words", "--label-words bug=WORD,WORD"]),
        (("--backbone", "/no/where"), ["'/no/where' does not exist", "--backbone REF"]),
        (("--backbone", "."), ["no readable config.json", "--backbone REF"]),
        (("--student", "/no/where"), ["'/no/where' does not exist", "--student REF"]),
        (("--student", "pypi:nothing"), ["is not a package reference", "--student REF"]),
    ],
)
def test_wrong_flags_are_errors(flags: tuple[str, ...], expected: list[str], backbone: str) -> None:
    base = {"--backbone": backbone, "--student": backbone} | dict([flags[:2]] if flags[0] in ("--backbone",) else [])
    others = flags if flags[0] != "--backbone" else ()
    error = init_error(tickets(), *itertools.chain.from_iterable(base.items()), *others)
    assert all(words in error for words in expected), error


def test_labels_without_words_need_label_words(backbone: str) -> None:
    rows = [(f"the case {i}", str(i % 2)) for i in range(40)]
    data = write_csv("some.csv", ("text", "label"), rows)
    error = init_error(data, "--backbone", backbone, "--student", backbone)
    assert "label '0' yields no label words" in error and "--label-words 0=WORD,WORD" in error


def test_bad_input_exits_with_2(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("init", "gone.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'gone.csv' does not exist" in done.stderr and "Traceback" not in done.stderr
