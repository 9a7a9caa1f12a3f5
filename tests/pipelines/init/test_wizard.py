"""`clozeline init`: flags, questions and errors."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from pipelines.cli.views import terminal
from pipelines.dag import fewshot
from pipelines.default_models import MINILM, MPNET, MULTILINGUAL_E5, QWEN_CODER, SMOLLM2
from pipelines.schema import reference
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.serving import scoring
from pipelines.serving.input_rows import InputRow, InputRows
from stages.common.errors import InputError
from stages.common.models.averaging import Scaling
from stages.common.seeds import python_rng
from stages.common.training.cross_validation import Indices, held_out_logits
from tests.support.init_files import TOPICS, draw_splits, init, init_error, messages, tickets, write_csv

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def test_init_writes_a_complete_recipe_that_plans(backbone: str, clozeline: Clozeline, tmp_path: Path) -> None:
    tickets()
    flags = ("--output", "tickets.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    done = clozeline("init", "tickets.csv", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["next", "clozeline", "run", "tickets.yaml"]
    text = Path("tickets.yaml").read_text()
    config = read_recipe(Path("tickets.yaml"), PipelineConfig)
    assert (config.name, config.task.name, config.task.labels) == ("tickets", "tickets", ("billing", "bug", "shipping"))
    assert config.data.train is not None
    assert "asset: tickets.csv" in text
    assert (config.data.train.asset, config.data.train.fields, config.data.train.label) == (
        str(tmp_path / "tickets.csv"),
        {"text": "message"},
        "team",
    )
    assert config.task.verbalizer == {label: [label] for label in TOPICS}
    assert config.baseline and config.students["small"].training and config.pet and config.pet.tune == "lora"
    assert text.count("#") >= 10 and "docs/reference/recipe.md" in text
    assert list(jsonschema.Draft202012Validator(reference.recipe_schema()).iter_errors(yaml.safe_load(text))) == []
    planned = clozeline("plan", "tickets.yaml", "--store", "store", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("RUN") == len(fewshot.build_steps(config))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_recipe_of_init_runs(start: Callable[..., PipelineConfig], clozeline: Clozeline, tmp_path: Path) -> None:
    test = messages("test.csv", 12, labeled=True)
    start(tickets(), "--test", test, "--unlabeled", messages("more.csv", 20, 2000, labeled=False))
    short = ("pet.training.steps=3", "pet.num_folds=2", "members.small_tuned.contrastive.training.steps=3")
    short += ("students.small.training.steps=3", "students.small.baseline_training.steps=3")
    overrides = itertools.chain.from_iterable(("-o", item) for item in short)
    arguments = ("run", "made.yaml", "--store", "store", *overrides)
    done = clozeline(*arguments, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student" in done.stdout and "zero_shot/about" in done.stdout


def test_init_keeps_patterns_that_predict_held_out_examples(backbone: str) -> None:
    done = init(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone)
    assert done.exit_code == 0, done.exception
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    splits = draw_splits(config)
    examples = list(splits.train)
    python_rng(0, "init").shuffle(examples)
    gold = np.array([config.task.labels.index(item.label or "") for item in examples])

    def accuracy(name: str) -> float:
        texts = InputRows("jsonl", iter([InputRow(item.uid, item.fields) for item in examples]))
        rows = scoring.score_rows(config.task, [name], config.backbone, {}, texts)
        logits = np.array([list(json.loads(row)["logits"].values()) for row in rows])

        def predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
            del fold
            return Scaling.fit(logits[fitted], gold[fitted], has_bias=True)(logits[held_out])

        held_out = held_out_logits(gold.tolist(), 3, 4, predict)
        assert held_out is not None
        return float((held_out.argmax(axis=1) == gold).mean())

    rows = re.findall(r"^ (\w+) +(\d+\.\d) +(yes|no) ", done.output, re.M)
    assert [name for name, _, kept in rows if kept == "yes"] == list(config.task.patterns)
    assert 1 <= len(config.task.patterns) <= 3 and len(rows) == 7
    printed = {name: float(value) for name, value, _ in rows}
    assert list(printed.values()) == sorted(printed.values(), reverse=True)
    for name in config.task.patterns:
        assert printed[name] == pytest.approx(100 * accuracy(name), abs=0.051)
    assert f"cross-validated on {len(examples)} labeled examples" in done.output
    majority = max(Counter(item.label for item in examples).values()) / len(examples)
    assert re.search(rf"most frequent label\) +{100 * majority:.1f}", done.output)


def test_recipe_has_no_pet_if_no_pattern_is_better_than_a_guess(backbone: str) -> None:
    rows = [(f"the same case {i}", ("bug", "billing")[i % 2]) for i in range(25)]
    data = write_csv("same.csv", ("text", "label"), rows)
    done = init(data, "--output", "made.yaml", "--backbone", backbone, "--student", backbone)
    assert done.exit_code == 0, done.exception
    note = "No PET: no pattern is better than a guess on the 20 labeled examples."
    assert note in done.output and f"# {note}" in Path("made.yaml").read_text()
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.pet is None and config.backbone is None and not config.task.verbalizer
    own = ("--pattern", "mine={text} is {mask}", "--label-words", "bug=crash", "--label-words", "billing=parcel")
    done = init(data, "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--force", *own)
    assert done.exit_code == 0, done.exception
    task = read_recipe(Path("made.yaml"), PipelineConfig).task
    assert task.patterns == {"mine": "{text} is {mask}"}, "what the user sets is kept"
    assert task.verbalizer == {"bug": ["crash"], "billing": ["parcel"]}


def test_recipe_is_the_same_after_renaming_the_labels(backbone: str) -> None:
    """Members, students and settings do not depend on the names of the labels."""
    flags = ("--backbone", "none", "--student", backbone)
    names = dict(zip(TOPICS, ("c1", "c2", "c3"), strict=True))
    text = Path(tickets()).read_text()
    for old, new in names.items():
        text = text.replace(f",{old}", f",{new}")
    Path("renamed.csv").write_text(text)
    recipes = []
    for data in ("tickets.csv", "renamed.csv"):
        assert init(data, *flags, "--name", "same", "--output", f"{data}.yaml").exit_code == 0
        sections = yaml.safe_load(Path(f"{data}.yaml").read_text())
        del sections["task"]["labels"], sections["data"]
        recipes.append(sections)
    assert recipes[0] == recipes[1]


def test_no_score_prints_no_table(backbone: str) -> None:
    done = init(tickets(), "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "accuracy" not in done.output
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert list(config.task.patterns) == ["topic", "about", "category"], "the first three"


def test_flags_set_all_values(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"{TOPICS[name]} of case {i}", f"title {i}", name, "x") for i in range(30) for name in ("billing", "bug")]
    rows += [(f"the case {i}", f"title {i}", "", "x") for i in range(9)]
    data = write_csv("some data.csv", ("body", "title", "right", "label"), rows)
    config = start(
        data, "--name", "mine", "--text", "body", "--label", "right", "--test-size", "7", "--budget", "2h",
        "--pattern", r"asks={title}: {text}\nTopic: {mask}.", "--pattern", "says={text} is {mask}",
        "--label-words", "billing=invoice,the invoice", "--label-words", "bug=crash",
    )  # fmt: skip
    assert (config.name, config.data.test_size) == ("mine", 7)
    assert "the budget of 2 hours" in Path("made.yaml").read_text()
    assert config.task.patterns == {"asks": "{title}: {text}\nTopic: {mask}.", "says": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "the invoice"], "bug": ["crash"]}
    assert config.data.train is not None
    assert config.data.train.fields == {"title": "title", "text": "body"}
    assert config.data.train.label == "right"
    assert "clozeline run made.yaml" in Path("made.yaml").read_text()


def test_name_defaults_to_the_name_of_the_file(backbone: str) -> None:
    done = init(tickets("My Tickets.csv"), "--backbone", backbone, "--student", backbone, "--no-score")
    assert done.exit_code == 0, done.exception
    assert read_recipe(Path("my_tickets.yaml"), PipelineConfig).name == "my_tickets"


def test_default_models_follow_the_language(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    smollm2 = replace(SMOLLM2, asset=backbone)
    monkeypatch.setattr("pipelines.init.default_recipe.SMOLLM2", smollm2)
    monkeypatch.setattr("pipelines.init.cloze_choices.DEFAULT_BACKBONES", {SMOLLM2.hub: smollm2})
    done = init(tickets(), "--output", "made.yaml", "--no-score")
    assert done.exit_code == 0, done.exception
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert (config.backbone.asset, config.students["small"].asset) == (backbone, MINILM.asset)
    encoders = {name: item.encoder.asset for name, item in config.members.items() if item.kind == "probe"}
    assert encoders == {
        "small_frozen": MINILM.asset, "small_tuned": MINILM.asset, "base_frozen": MPNET.asset, "base_tuned": MPNET.asset
    }  # fmt: skip
    assert config.pet is not None and config.pet.lora.targets == ("q_proj", "v_proj"), "the layers of SmolLM2"
    note = "Language: english (--language). Encoders: all-MiniLM-L6-v2 and all-mpnet-base-v2."
    assert note in done.output and f"# {note}" in Path("made.yaml").read_text()


def test_other_languages_have_a_multilingual_encoder(backbone: str) -> None:
    rows = [(f"包裹{i}在哪里，请告诉我", ("bug", "billing", "")[i % 3]) for i in range(60)]
    data = write_csv("some.csv", ("text", "label"), rows)
    done = init(data, "--output", "made.yaml", "--backbone", backbone, "--no-score")
    assert done.exit_code == 0, done.exception
    assert "other (Chinese); --language changes it" in done.output
    assert "Language: other" in done.output and "Encoders: multilingual-e5-small" in done.output
    sections = yaml.safe_load(Path("made.yaml").read_text())
    assert "主题" in sections["task"]["patterns"]["topic"]
    small = sections["students"]["small"]
    assert {key: small[key] for key in ("asset", "max_length", "prefix")} == sections["members"]["small_frozen"][
        "encoder"
    ]
    assert sections["members"]["words"]["analyzer"] == "char", "Chinese has no spaces"
    assert (small["asset"], small["prefix"]) == (MULTILINGUAL_E5.asset, "query: ")


def test_language_and_assets_are_flags() -> None:
    flags = ("--language", "other", "--assets", "hub", "--backbone", "none")
    done = init(tickets(), "--output", "made.yaml", *flags)
    assert done.exit_code == 0, done.exception
    students = yaml.safe_load(Path("made.yaml").read_text())["students"]
    assert students["small"]["asset"] == "hf:intfloat/multilingual-e5-small"
    assert init(tickets(), "--language", "french", "--output", "other.yaml").exit_code == 2


def test_pairs_are_recognized(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(f"the parcel {i}", f"the case {i}", names[i % 3] if i < 60 else "") for i in range(80)]
    data = write_csv("pairs.csv", ("premise", "hypothesis", "relation"), rows)
    config = start(data)
    assert config.data.train is not None
    assert config.data.train.fields == {"text_a": "premise", "text_b": "hypothesis"}
    assert config.task.fields == ("text_a", "text_b")
    same = start(data, "--text", "hypothesis", "--text", "premise", "--force").data.train
    assert same is not None and same.fields == {"text_a": "hypothesis", "text_b": "premise"}


def test_words_of_pairs_may_differ_by_pattern(backbone: str) -> None:
    rows = [(f"the parcel {i} is lost", f"the case {i} is open", ("bug", "crash", "")[i % 3]) for i in range(60)]
    done = init(
        write_csv("pairs.csv", ("sentence1", "sentence2", "label"), rows), "--output", "made.yaml",
        "--backbone", backbone, "--student", backbone, "--pattern", "mine={text_a} {text_b} {mask}",
        "--pattern", "other={text_b}? {mask}, {text_a}",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    task = read_recipe(Path("made.yaml"), PipelineConfig).task
    assert list(task.patterns) == ["mine", "other"] or list(task.patterns) == ["other", "mine"]
    assert all(task.words(pattern)["bug"] != task.words(pattern)["crash"] for pattern in task.patterns)


def test_budget_without_pet_downloads_no_language_model(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    gone = replace(QWEN_CODER, asset="/no/where")
    monkeypatch.setattr("pipelines.init.default_recipe.QWEN_CODER", gone)
    monkeypatch.setattr("pipelines.init.cloze_choices.DEFAULT_BACKBONES", {QWEN_CODER.hub: gone})
    rows = [(f"the parcel {i} is lost", f"the case {i} is open", ("yes", "no", "")[i % 3]) for i in range(60)]
    flags = (write_csv("pairs.csv", ("sentence1", "sentence2", "label"), rows), "--student", backbone)
    done = init(*flags, "--budget", "1m", "--output", "made.yaml")
    assert done.exit_code == 0, done.exception
    assert "Left out or reduced: no PET" in done.output and "scoring" not in done.output
    sections = yaml.safe_load(Path("made.yaml").read_text())
    assert "pet" not in sections and all("{text_a}" in text for text in sections["task"]["patterns"].values())
    assert "'/no/where' does not exist" in str(init(*flags, "--output", "other.yaml").exception)


def test_budget_is_stated_and_kept() -> None:
    flags = ("--unlabeled", messages("more.csv", 3000, labeled=False), "--assets", "hub", "--backbone", "none")
    done = init(tickets(), *flags, "--budget", "2m", "--output", "made.yaml")
    assert done.exit_code == 0, done.exception
    text = Path("made.yaml").read_text()
    estimate = r"# Estimated time on two cores: [12] minutes?, within the budget of 2 minutes \(--budget\)\."
    assert re.search(rf"^{estimate} Left out or reduced: no base encoder\b", text, re.M)
    assert list(yaml.safe_load(text)["students"]) == ["small", "words"]
    for wrong, right in (("25", "--budget 25m"), ("soon", "--budget 30m")):
        error = init(tickets(), "--budget", wrong, "--output", "other.yaml").exception
        assert isinstance(error, InputError) and right in str(error)


def test_an_output_that_cannot_be_written_is_an_error_before_any_work() -> None:
    assert "missing is not a folder. Set --output" in str(init(tickets(), "--output", "missing/made.yaml").exception)


def test_recipe_with_few_unlabeled_texts_has_no_students(backbone: str) -> None:
    done = init(tickets(num_unlabeled=5), "--output", "made.yaml", "--backbone", "none", "--student", backbone)
    assert done.exit_code == 0, done.exception
    note = "No students: 5 unlabeled texts are too few (minimum: 50; --unlabeled FILE)."
    text = Path("made.yaml").read_text()
    assert note in done.output and f"# {note}" in text
    assert "unlabeled" not in yaml.safe_load(text)["data"]
    assert not read_recipe(Path("made.yaml"), PipelineConfig).has_unlabeled


def test_recipe_without_unlabeled_texts_has_no_distillation(backbone: str) -> None:
    flags = ("--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    done = init(tickets(num_unlabeled=0), *flags)
    assert done.exit_code == 0, done.exception
    text = Path("made.yaml").read_text()
    assert text.startswith("# 48 labeled examples -> a small classifier.")
    sections = yaml.safe_load(text)
    assert not {"distill", "ensemble"} & set(sections) and {"members", "baseline"} <= set(sections)
    assert not {"unlabeled", "unlabeled_size"} & set(sections["data"])


def test_max_length_fits_the_texts(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(" ".join(["crash"] * 50) + f" case {i}", names[i % 2] if i < 40 else "") for i in range(50)]
    config = start(write_csv("long.csv", ("text", "label"), rows))
    assert 56 <= config.backbone.max_length <= 96
    assert config.students["small"].max_length == 96, "with a margin, the maximum of the encoder"
    config = start(tickets(), "--force")
    assert config.backbone.max_length == config.students["small"].max_length == 32


@pytest.fixture
def interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)


@pytest.mark.usefixtures("interactive")
def test_wizard_asks_again_after_a_wrong_answer(backbone: str) -> None:
    answers = ["massage", "message", "message", "team", "My Name", "mine"]
    answers += ["/no/where", backbone, "/no/where", backbone]
    answers += ["said={text} is", "said={text} is {mask}", "", "none", "9"]
    answers += ["映画", "invoice, parcel", "", "invoice,parcel", "crash"]
    done = init(tickets(), "--output", "made.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, (done.exception, done.output)
    for error in (
        "has no column 'massage'",
        "is already the column of the text",
        "is not a valid name",
        "--backbone REF",
        "--student REF",
        "has no {mask}",
        "not in the backbone's vocabulary",
        "have the same words",
        "is not a number of examples",
    ):
        assert done.output.count(error) == 1, error
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.data.train is not None
    assert (config.name, config.data.train.label, config.data.test_size) == ("mine", "team", 9)
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
        "--pattern", "a={text} {mask}", "--test-size", "5", "--no-score",
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
    assert "no is not a folder. Set --output" in error


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


@pytest.mark.parametrize("names", [("0", "1"), ("c1", "c2"), ("bug", "Bug"), ("bug", "映画")])
def test_labels_without_words_have_no_pet_unless_examples_are_scored(names: tuple[str, str], backbone: str) -> None:
    rows = [(f"the case {i}", names[i % 2] if i < 40 else "") for i in range(50)]
    data = write_csv("some.csv", ("text", "label"), rows)
    flags = ("--backbone", backbone, "--student", backbone, "--no-score", "--output", "made.yaml")
    done = init(data, *flags)
    assert done.exit_code == 0, done.exception
    assert "No PET: the names of the labels" in done.output and "--label-words" in done.output
    sections = yaml.safe_load(Path("made.yaml").read_text())
    assert not {"pet", "backbone"} & set(sections) and sections["task"]["labels"] == sorted(names)
    words = ("--label-words", f"{names[0]}=crash", "--label-words", f"{names[1]}=parcel")
    assert init(data, *flags, "--force", *words).exit_code == 0
    assert read_recipe(Path("made.yaml"), PipelineConfig).task.verbalizer == {names[0]: ["crash"], names[1]: ["parcel"]}


def test_some_label_words_need_all_of_them(backbone: str) -> None:
    rows = [(f"the case {i}", str(i % 2)) for i in range(40)]
    data = write_csv("some.csv", ("text", "label"), rows)
    error = init_error(data, "--backbone", backbone, "--student", backbone, "--label-words", "1=bug")
    assert "label '0' yields no label words" in error and "--label-words 0=WORD,WORD" in error


def test_bad_input_exits_with_2(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("init", "gone.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'gone.csv' does not exist" in done.stderr and "Traceback" not in done.stderr


def test_descriptions_give_label_words(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the {('invoice', 'parcel')[i % 2]} of case {i}", f"c{i % 2}") for i in range(40)]
    data = write_csv("some.csv", ("text", "label"), rows)
    config = start(data, "--describe", "c0=The invoice, or the billing of it", "--describe", "c1=a parcel")
    assert config.task.verbalizer == {"c0": ["invoice", "billing"], "c1": ["parcel"]}


def test_wrong_descriptions_are_errors() -> None:
    data = tickets()
    error = init_error(data, "--describe", "sales=what they buy", "--backbone", "none")
    assert "--describe sales=what they buy has none of the labels billing, bug, shipping" in error
    twice = init_error(data, "--describe", "bug=crash", "--describe", "bug=error", "--backbone", "none")
    assert "--describe sets 'bug' twice" in twice and "--describe bug=TEXT" in twice
