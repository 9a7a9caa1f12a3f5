"""`clozeline init` as people use it: a file of texts in, a recipe out that plans and runs; every wrong turn is said."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from pipelines import fewshot, proposing, reference, scoring, terminal
from pipelines.cli import app
from pipelines.config import PipelineConfig
from pipelines.labelled_file import Labelled, LabelledFile
from pipelines.recipe import read_recipe
from pipelines.recipe_writing import share_out
from stages import splits
from stages.errors import DataError, InputError
from stages.models.backbones import BackboneConfig

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

TOPICS = {"billing": "the invoice", "bug": "the crash", "shipping": "the parcel"}
WORDS = "billing bug shipping invoice crash parcel case the of is about topic category text sentiment opinion tone"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'\"()-_"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A masked model with some words of its own and letters for all others."""
    folder = tmp_path_factory.mktemp("backbone")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *LETTERS, *(f"##{item}" for item in LETTERS), *WORDS.split()]
    ids = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(3)
    small = {"vocab_size": len(ids), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = BertForMaskedLM(BertConfig(**small, intermediate_size=64, max_position_embeddings=96))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.5 if "embed" in name else 0.25)  # so that logits differ from text to text
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def write_csv(path: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def tickets(path: str = "tickets.csv", num: int = 60) -> str:
    """Texts of three topics in turn, with a number that nobody should take for a label."""
    names = list(TOPICS)
    rows = [(i, f"{TOPICS[names[i % 3]]} of case {i}", names[i % 3]) for i in range(num)]
    return write_csv(path, ("id", "message", "team"), rows)


def write_jsonl(path: str, rows: Sequence[dict[str, Any]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def init(*words: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(app, ["init", *words], input=answers)


@pytest.fixture
def start(backbone: str) -> Callable[..., PipelineConfig]:
    """Runs init with the small model, and reads what it wrote."""

    def call(data: str, *words: str, out: str = "made.yaml") -> PipelineConfig:
        done = init(data, "--out", out, "--backbone", backbone, "--student", backbone, "--no-score", *words)
        assert done.exit_code == 0, done.exception
        return read_recipe(Path(out), PipelineConfig)

    return call


def drawn(config: PipelineConfig) -> splits.Split:
    """The sets as a run draws them."""
    (step,) = [item for item in fewshot.steps(config) if item.fn is splits.run]
    assert isinstance(step.config, splits.Config)
    return splits.draw(step.config)


def refused(*words: str, answers: str | None = None) -> str:
    done = init(*words, answers=answers)
    assert isinstance(done.exception, InputError), done.output
    assert not list(Path().glob("*.yaml")) and not list(Path().glob(".*.part"))
    return str(done.exception)


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
    assert config.baseline and config.distill.loop and config.pet.tune == "lora"
    assert text.count("#") >= 10 and "docs/reference.md" in text
    assert list(jsonschema.Draft202012Validator(reference.schema()).iter_errors(yaml.safe_load(text))) == []
    planned = clozeline("plan", "tickets.yaml", "--store", "store", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("RUN") == len(fewshot.steps(config))


def test_the_recipe_runs(start: Callable[..., PipelineConfig], clozeline: Clozeline, tmp_path: Path) -> None:
    start(tickets(), "--shots", "4")
    short = ("-o", "pet.loop.epochs=1", "-o", "distill.loop.steps=3", "-o", "baseline.loop.steps=3", "-o")
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
            json.loads(line)["logits"] for line in scoring.score(config.task, [name], config.backbone, lines, "here")
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
    monkeypatch.setattr("pipelines.starting.read_recipe", lambda *_: here)
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
    assert config.data.pool.label_names == {" bug ": "bug"}
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
    found = Labelled(
        asset="x", fields={}, label="y", labels=("a", "b"), raw={}, counts={"a": 30, "b": 30}, unlabelled={},
        num_empty=0, texts=[],
    )  # fmt: skip
    assert share_out(found, 20, None).shots == 20
    assert share_out(found, None, 41).test == 41
    with pytest.raises(DataError, match="none is left for the unlabelled pile"):
        share_out(found, 20, 20)


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
    file = LabelledFile(write_csv("some.csv", header, rows))
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
    assert proposing.kind_of(labels, column) == kind


def test_patterns_fit_the_family() -> None:
    for kind in ("topic", "sentiment", "rating"):
        causal, masked = (proposing.patterns(kind, family) for family in ("causal", "masked"))
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
    assert proposing.words(labels, "topic", tokenizer, "masked") == expected


# --- questions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_person", lambda: True)


@pytest.mark.usefixtures("person")
def test_a_person_is_asked_for_what_no_flag_says_and_again_for_what_cannot_be(backbone: str) -> None:
    answers = ["massage", "message", "message", "id", "team", "My Name", "mine"]
    answers += ["/no/where", backbone, "/no/where", backbone]
    answers += ["said={text} is", "said={text} is {mask}", "", "映画", "invoice, parcel", "", "invoice,parcel", "crash"]
    answers += ["none", "4", "9"]
    done = init(tickets(), "--out", "made.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, (done.exception, done.output)
    for complaint in (
        "has no column 'massage'", "is the column of the text", "looks like text, not labels", "is no name",
        "--backbone REF", "--student REF", "has no {mask}", "not in the backbone's vocabulary", "have the same words",
        "is no number of texts",
    ):  # fmt: skip
        assert done.output.count(complaint) == 1, complaint
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.data.pool is not None
    assert (config.name, config.data.pool.label, config.data.shots, config.data.test_size) == ("mine", "team", 4, 9)
    assert config.task.patterns == {"said": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "parcel"], "bug": ["bug"], "shipping": ["crash"]}


@pytest.mark.usefixtures("person")
def test_enter_takes_what_is_proposed(backbone: str) -> None:
    flags = (tickets(), "--backbone", backbone, "--student", backbone, "--no-score")
    assert init(*flags, "--out", "asked.yaml", answers="\n" * 20).exit_code == 0
    assert init(*flags, "--out", "given.yaml", "--yes", "--name", "asked").exit_code == 0
    asked, given = (Path(name).read_text().splitlines()[2:] for name in ("asked.yaml", "given.yaml"))
    assert asked == given and len(asked) > 40


@pytest.mark.usefixtures("person")
def test_nothing_is_asked_that_flags_say(backbone: str) -> None:
    done = init(
        tickets(), "--out", "made.yaml", "--name", "x", "--text", "message", "--label", "team", "--backbone", backbone,
        "--student", backbone, "--pattern", "a={text} {mask}", "--shots", "3", "--test-size", "5", "--no-score",
        *itertools.chain.from_iterable(("--words", f"{name}={name}") for name in TOPICS), answers="",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception


@pytest.mark.usefixtures("person")
def test_an_end_of_the_answers_is_said(backbone: str) -> None:
    assert "--yes" in refused(tickets(), "--backbone", backbone, answers="message\n")


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_file_is_not_written_over_but_with_force(backbone: str, start: Callable[..., PipelineConfig]) -> None:
    Path("made.yaml").write_text("mine")
    done = init(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert isinstance(done.exception, InputError) and "--force" in str(done.exception)
    assert Path("made.yaml").read_text() == "mine"
    assert start(tickets(), "--force").name == "made"


def test_a_recipe_appears_whole_or_not_at_all(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    said = refused(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "cannot be written (No space left on device)" in said and "--out" in said


def test_a_folder_that_is_not_there_is_said(backbone: str) -> None:
    said = refused(tickets(), "--out", "no/made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "no/made.yaml cannot be written" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.csv", None, ["'gone.csv' does not exist"]),
        ("empty.csv", "", ["empty.csv is empty"]),
        ("empty.jsonl", "", ["empty.jsonl holds no row"]),
        ("header.csv", "text,label\n", ["header.csv holds no row"]),
        ("bad.csv", "text,label\na b c,x\na b c,x,y\n", ["bad.csv, line 3", "3 values"]),
        ("bad.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', ["bad.jsonl, line 2", "not JSON"]),
        ("list.jsonl", "[1]\n", ["list.jsonl, line 1", "not a JSON object"]),
        ("kind.xyz", "text,label\n", ["kind.xyz", "Rename it"]),
        ("many.jsonl", '{"text": "a b c", "label": ["x"]}\n', ["many.jsonl, line 1", "is a list"]),
        ("odd.jsonl", '{"text": "a b c", "label": "x"}\n{"text": 7, "label": "y"}\n', ["odd.jsonl, line 2", "is int"]),
        ("less.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', ["less.jsonl, line 2", "no column 'label'"]),
        ("less.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}\n', ["less.jsonl, line 2", "no column 'text'"]),
        ("one.csv", "text,label\na b c,x\na b d,x\n", ["one label only, 'x'", "--label"]),
        ("none.csv", "text,label\na b c,\na b d,\n", ["has no label"]),
    ],
)
def test_bad_files_are_refused(name: str, content: str | None, said: list[str]) -> None:
    if content is not None:
        Path(name).write_text(content)
    columns = ("--text", "text") if name == "odd.jsonl" else ()
    found = refused(name, *columns)
    assert all(words in found for words in said), found


def test_labels_that_are_texts_are_refused() -> None:
    rows = [(f"the case {i}", f"value {i}") for i in range(60)]
    found = refused(write_csv("some.csv", ("text", "label"), rows))
    assert "60 different values in 60 rows" in found and "looks like text, not labels" in found
    rows = [(f"the case {i}", "a very long label " * 5 + str(i % 2)) for i in range(60)]
    assert "looks like text" in refused(write_csv("some.csv", ("text", "label"), rows))


def test_columns_that_cannot_be_told_are_named() -> None:
    rows = [(f"words of one {i}", f"words of two {i}", "ab"[i % 2], "cd"[i % 2]) for i in range(20)]
    data = write_csv("some.csv", ("one", "two", "three", "four"), rows)
    found = refused(data)
    assert "one, two, three, four" in found and "--text COLUMN" in found
    assert "--label COLUMN" in refused(data, "--text", "one")
    assert "has no column 'five'" in refused(data, "--text", "five")
    assert "is the column of the text" in refused(data, "--text", "one", "--label", "one")


def test_too_few_texts_of_a_label_are_refused(backbone: str) -> None:
    rows = [(f"the case {i}", "bug") for i in range(20)] + [("the case", "billing"), ("THE  case", "billing")]
    data = write_csv("some.csv", ("text", "label"), rows)
    assert "'billing' has 1; 4 are the least" in refused(data)
    found = refused(tickets(), "--shots", "20", "--backbone", backbone)
    assert "'bug' has 20" in found and "21 are the least" in found and "--shots" in found
    flags = ("--backbone", backbone, "--student", backbone, "--no-score")
    assert "--test-size" in refused(tickets(), "--test-size", "60", *flags)
    rows = [(f"the case {i}", "billing" if i < 11 else "bug") for i in range(60)]
    data = write_csv("some.csv", ("text", "label"), rows)
    assert "--shots N" in refused(data, "--test-size", "20", "--shots", "10", *flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--name", "My Name"), ["'My Name' is no name", "--name my_name"]),
        (("--pattern", "topic"), ["'topic' is no pattern", "NAME=TEXT"]),
        (("--pattern", "Topic={text} {mask}"), ["is no pattern with a name"]),
        (("--pattern", "topic={text}"), ["has no {mask}", "--pattern topic=TEXT"]),
        (("--pattern", "topic={txt} {mask}"), ["takes {txt}", "{text}, {id}, {message}, {team}"]),
        (("--pattern", "topic={option} {text} {mask}"), ["takes {option}"]),
        (("--pattern", "topic={text} {soft:3} {mask}"), ["soft block", "--pattern topic=TEXT"]),
        (("--pattern", "a={text} {mask}", "--pattern", "a={text}: {mask}"), ["'a' is given twice"]),
        (("--words", "bugs=crash"), ["names none of the labels billing, bug, shipping"]),
        (("--words", "bug=crash", "--words", "bug=case"), ["'bug' twice"]),
        (("--words", "bug=,"), ["no word is given for 'bug'", "--words bug=WORD,WORD"]),
        (("--words", "bug=映画"), ["'映画' of 'bug' is not in the backbone's vocabulary", "--words bug=WORD,WORD"]),
        (("--words", "bug=billing"), ["have the same words", "--words bug=WORD,WORD"]),
        (("--backbone", "/no/where"), ["'/no/where' does not exist", "--backbone REF"]),
        (("--backbone", "."), ["no readable config.json", "--backbone REF"]),
        (("--student", "/no/where"), ["'/no/where' does not exist", "--student REF"]),
        (("--student", "pypi:nothing"), ["is not a package reference", "--student REF"]),
    ],
)
def test_bad_flags_are_refused(flags: tuple[str, ...], said: list[str], backbone: str) -> None:
    base = {"--backbone": backbone, "--student": backbone} | dict([flags[:2]] if flags[0] in ("--backbone",) else [])
    others = flags if flags[0] != "--backbone" else ()
    found = refused(tickets(), *itertools.chain.from_iterable(base.items()), *others)
    assert all(words in found for words in said), found


def test_labels_whose_names_say_nothing_want_words(backbone: str) -> None:
    rows = [(f"the case {i}", str(i % 2)) for i in range(40)]
    data = write_csv("some.csv", ("text", "label"), rows)
    found = refused(data, "--backbone", backbone, "--student", backbone)
    assert "label '0' gives no word" in found and "--words 0=WORD,WORD" in found


def test_bad_input_ends_with_2(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("init", "gone.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'gone.csv' does not exist" in done.stderr and "Traceback" not in done.stderr
