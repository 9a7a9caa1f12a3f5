"""`clozeline init` as people use it: a file of texts in, a recipe out that plans and runs."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from tokenizers import Tokenizer

from pipelines.dag import fewshot
from pipelines.init import defaults
from pipelines.init.labeled_file import LabeledData, LabeledFile
from pipelines.init.recipe_writer import choose_split_sizes
from pipelines.schema import reference
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.serving import batch_inference
from stages.common.errors import DataError
from stages.common.models.backbones.config import BackboneConfig
from tests.support.init_files import TOPICS, drawn, init, tickets, write_csv, write_jsonl

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


# --- what is written ----------------------------------------------------------------------------------------------


def test_the_recipe_is_complete_and_plan_takes_it(backbone: str, clozeline: Clozeline, tmp_path: Path) -> None:
    tickets()
    flags = ("--out", "tickets.yaml", "--backbone", backbone, "--student", backbone)
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
    assert text.count("#") >= 10 and "docs/reference.md" in text
    assert list(jsonschema.Draft202012Validator(reference.recipe_schema()).iter_errors(yaml.safe_load(text))) == []
    planned = clozeline("plan", "tickets.yaml", "--store", "store", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("RUN") == len(fewshot.build_steps(config))


def test_the_recipe_runs(start: Callable[..., PipelineConfig], clozeline: Clozeline, tmp_path: Path) -> None:
    start(tickets(), "--shots", "4")
    short = ("-o", "pet.training.epochs=1", "-o", "distill.training.steps=3", "-o", "baseline.training.steps=3", "-o")
    words = ("run", "made.yaml", "--store", "store", *short, "distill.seeds=[0]", "-o", "baseline.seeds=[0]")
    done = clozeline(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student" in done.stdout and "zero_shot/about" in done.stdout


def test_scores_are_those_of_the_patterns_outside_the_test_set(backbone: str) -> None:
    done = init(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone)
    assert done.exit_code == 0, done.exception
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    sets = drawn(config)
    known = [*sets.train, *sets.unlabeled]
    tested = {item.fields["text"] for item in sets.test}
    assert known and not tested & {item.fields["text"] for item in known}
    lines = [json.dumps(item.fields) for item in known]
    for name in config.task.patterns:
        found = [
            json.loads(line)["logits"]
            for line in batch_inference.score_lines(config.task, [name], config.backbone, lines, "here")
        ]
        right = [max(row, key=row.get) == item.label for row, item in zip(found, known, strict=True)]
        shown = re.search(rf"^ {name} +(\d+\.\d)", done.output, re.M)
        assert shown and float(shown[1]) == pytest.approx(100 * sum(right) / len(right), abs=0.051)
    assert f"on {len(known)} labelled texts" in done.output
    most = max(Counter(item.label for item in known).values()) / len(known)
    assert re.search(rf"most frequent label\) +{100 * most:.1f}", done.output)


def test_without_scores_there_is_no_table(backbone: str) -> None:
    done = init(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "zero-shot" not in done.output and Path("made.yaml").exists()


def test_flags_decide(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"{TOPICS[name]} of case {i}", f"title {i}", name, "x") for i in range(30) for name in ("billing", "bug")]
    data = write_csv("some data.csv", ("body", "title", "right", "label"), rows)
    config = start(
        data, "--name", "mine", "--text", "body", "--label", "right", "--shots", "3", "--test-size", "7",
        "--pattern", r"asks={title}: {text}\nTopic: {mask}.", "--pattern", "says={text} is {mask}",
        "--words", "billing=invoice,the invoice", "--words", "bug=crash",
    )  # fmt: skip
    assert (config.name, config.data.shots, config.data.test_size) == ("mine", 3, 7)
    assert config.data.unlabeled_size == 60 - 7 - 6
    assert config.task.patterns == {"asks": "{title}: {text}\nTopic: {mask}.", "says": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "the invoice"], "bug": ["crash"]}
    assert config.data.pool is not None
    assert config.data.pool.fields == {"title": "title", "text": "body"}
    assert config.data.pool.label == "right"
    assert "clozeline run made.yaml" in Path("made.yaml").read_text()


def test_the_name_of_the_file_is_that_of_recipe_and_task(backbone: str) -> None:
    done = init(tickets("My Tickets.csv"), "--backbone", backbone, "--student", backbone, "--no-score")
    assert done.exit_code == 0, done.exception
    assert read_recipe(Path("my_tickets.yaml"), PipelineConfig).name == "my_tickets"


def test_the_defaults_are_the_demo_s_models(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    demo = read_recipe(Path(__file__).parents[2] / "pipelines/recipes/demo.yaml", PipelineConfig)
    here = demo.model_copy(update={"backbone": BackboneConfig(asset=backbone)})
    monkeypatch.setattr("pipelines.init.wizard.read_recipe", lambda *_: here)
    assert init(tickets(), "--out", "made.yaml", "--no-score").exit_code == 0
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert (config.backbone.asset, config.student.asset) == (backbone, demo.student.asset)
    assert config.pet.lora == demo.pet.lora, "adapters where the demo has them"


def test_the_length_is_that_of_the_texts(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(" ".join(["crash"] * 50) + f" case {i}", names[i % 2]) for i in range(40)]
    config = start(write_csv("long.csv", ("text", "label"), rows))
    assert 56 <= config.backbone.max_length <= 96
    assert start(tickets(), "--force").backbone.max_length == 32


# --- labels and files of all kinds --------------------------------------------------------------------------------

ODD = ("no", "1.5", "a: b", "#hash", "it's", '"quoted"', "{braces}", "a, b", "- dash", "Null", "a\\b", "x=y", "*")


def test_odd_labels_come_back_as_they_are(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the case of {label} {i}", label) for label in ODD for i in range(12)]
    words = itertools.chain.from_iterable(
        ("--words", f"{label}={'abcdefghijklm'[number]}") for number, label in enumerate(ODD)
    )
    config = start(write_csv("odd.csv", ("text", "label"), rows), *words)
    assert set(config.task.labels) == set(ODD)
    assert config.task.verbalizer == {label: ["abcdefghijklm"[number]] for number, label in enumerate(ODD)}
    assert {item.label for item in drawn(config).train} == set(ODD)


def test_json_lines_with_nested_columns_numbers_and_blanks(start: Callable[..., PipelineConfig]) -> None:
    names: list[Any] = [10, 9, " bug "]
    rows = [{"about": {"kind": names[i % 3]}, "text": f"the crash of case {i}" if i else None} for i in range(40)]
    words = ("--words", "9=invoice", "--words", "10=parcel")
    config = start(write_jsonl("rows.jsonl", rows), "--label", "about.kind", *words)
    assert config.task.labels == ("10", "9", "bug")
    assert config.data.pool is not None
    assert config.data.pool.label_map == {" bug ": "bug"}
    assert config.data.pool.drop_empty
    assert "1 rows have no text" in Path("made.yaml").read_text()
    assert {item.label for item in drawn(config).train} == {"10", "9", "bug"}


def test_numbers_are_sorted_as_numbers(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the case of {i}", str(i % 5 + 1)) for i in range(100)]
    config = start(write_csv("films.csv", ("text", "stars"), rows))
    assert config.task.labels == ("1", "2", "3", "4", "5")
    assert config.task.verbalizer["1"] == ["terrible"] and config.task.verbalizer["5"] == ["great"]
    assert "it was" in config.task.patterns["all"]


@pytest.mark.parametrize("nothing", ["", None])
def test_many_rows_without_a_label_are_the_pile(start: Callable[..., PipelineConfig], nothing: str | None) -> None:
    names = [*TOPICS, *[nothing] * 5]
    rows = [{"text": f"the parcel of case {i}", "label": names[i % 8]} for i in range(160)]
    if nothing is None:
        data = write_jsonl("some.jsonl", rows)
    else:
        data = write_csv("some.csv", ("text", "label"), [tuple(row.values()) for row in rows])
    config = start(data)
    assert config.data.unlabeled is not None
    sets = drawn(config)
    assert len(sets.unlabeled) == 100
    assert len(sets.train) == 3 * config.data.shots
    assert {item.label for item in sets.test} <= set(TOPICS)


def test_few_rows_without_a_label_are_left_out(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(f"the parcel of case {i}", names[i % 3] if i > 2 else "") for i in range(90)]
    config = start(write_csv("some.csv", ("text", "label"), rows))
    assert config.data.unlabeled is None
    sets = drawn(config)
    assert all(item.label for item in (*sets.train, *sets.unlabeled, *sets.test))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 4), None),
        ((4, 300), None),
        ((9, 9, 9, 9, 9, 9, 9), None),
        ((5, 2000), None),
        ((1500, 1500), (16, 1000, 500)),
    ],
)
def test_sizes_are_those_that_can_be_drawn(
    start: Callable[..., PipelineConfig], counts: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    names = [*TOPICS, "case", "topic", "text", "tone"][: len(counts)]
    rows = [(f"the {name} of case {i}", name) for name, count in zip(names, counts, strict=True) for i in range(count)]
    config = start(write_csv("some.csv", ("text", "label"), rows))
    sets = drawn(config)
    assert Counter(item.label for item in sets.train) == dict.fromkeys(names, config.data.shots)
    assert len(sets.unlabeled) == config.data.unlabeled_size >= 1
    assert len(sets.test) == config.data.test_size >= 1
    if expected:
        assert (config.data.shots, config.data.unlabeled_size, config.data.test_size) == expected


def test_what_is_fixed_is_not_made_smaller() -> None:
    found = LabeledData(
        asset="x", fields={}, label="y", labels=("a", "b"), raw={}, counts={"a": 30, "b": 30}, unlabeled={},
        num_empty=0, texts=[],
    )  # fmt: skip
    assert choose_split_sizes(found, 20, None).shots == 20
    assert choose_split_sizes(found, None, 41).test == 41
    with pytest.raises(DataError, match="none is left for the unlabelled pile"):
        choose_split_sizes(found, 20, 20)


# --- columns, patterns and words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("text", "label"), "text", "label"),
        (("Label", "Review"), "Review", "Label"),
        (("title", "category", "sentence"), "sentence", "category"),
        (("words", "who"), "words", "who"),
    ],
)
def test_columns_are_recognised(header: tuple[str, ...], text: str, label: str) -> None:
    values = {text: lambda i: f"the parcel of case {i}", label: lambda i: ("bug", "billing")[i % 2]}
    rows = [[values.get(name, lambda i: f"some other words {i}")(i) for name in header] for i in range(20)]
    file = LabeledFile(write_csv("some.csv", header, rows))
    assert (file.guess_text(None), file.guess_label(text)) == (text, label)


@pytest.mark.parametrize(
    ("labels", "column", "kind"),
    [
        (("pos", "neg"), "label", "sentiment"),
        (("Positive", "NEGATIVE", "neutral"), "label", "sentiment"),
        (("1", "2", "5"), "stars", "rating"),
        (("1", "2", "5"), "label", "topic"),
        (("good", "billing"), "label", "topic"),
    ],
)
def test_the_kind_of_labels(labels: tuple[str, ...], column: str, kind: str) -> None:
    assert defaults.kind_of(labels, column) == kind


def test_patterns_fit_the_family() -> None:
    for kind in ("topic", "sentiment", "rating"):
        causal, masked = (defaults.default_patterns(kind, family) for family in ("causal", "masked"))
        assert list(causal) == list(masked) and len(causal) == 3
        assert all(text.endswith("{mask}") and not text.endswith(" {mask}") for text in causal.values())
        assert all(text.endswith(" {mask}.") and "\n" not in text for text in masked.values())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("Billing", "BUG"), {"Billing": ["billing"], "BUG": ["bug"]}),
        (("Text/Topic", "bug_case"), {"Text/Topic": ["text", "topic"], "bug_case": ["bug", "case"]}),
        (("about.bug", "about.crash"), {"about.bug": ["bug"], "about.crash": ["crash"]}),
        (("the bug", "crashOfParcel"), {"the bug": ["bug"], "crashOfParcel": ["crash", "parcel"]}),
        (("pos", "neg"), {"pos": ["positive"], "neg": ["negative"]}),
        (("wifi", "0"), {"wifi": ["wifi"], "0": []}),
        (("映画", "bug"), {"映画": [], "bug": ["bug"]}),
    ],
)
def test_words_come_out_of_the_labels_names(backbone: str, labels: tuple[str, ...], expected: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_file(f"{backbone}/tokenizer.json")
    assert defaults.label_words(labels, "topic", tokenizer, "masked") == expected
