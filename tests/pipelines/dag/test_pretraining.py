"""Formats of prompt pretraining in a recipe: their steps, who starts from which, and what is refused before a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.preflight.checks import check_corpus
from pipelines.preflight.models import bare_tokenizer, check_formats
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, load_config, read_recipe
from pipelines.schema.locations import RecipeError
from pipelines.schema.sections import prompts
from pipelines.schema.sections.prompts import PptSection
from stages.common.assets.cache import identity
from stages.common.errors import AssetError, DataError, InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import model_folder
from stages.common.patterns.config import Task
from stages.common.patterns.verbalizers import word_tokens
from stages.common.seeds import derive_seed
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.formats import LETTERS, PretrainingFormat

ALL = "ppt.formats=[pair, choice, single, unified]"
ROOM = ("ppt.choice_options=5", "ppt.unified_options=[2, 5]")
"""What the 48 tokens of `smoke` have room for."""


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, overrides)


def plan(*overrides: str) -> dict[str, Step]:
    return {step.name: step for step in build_steps(read(*overrides))}


def refused(*overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        plan(*overrides)
    assert caught.value.remedy
    return caught.value


# --- steps ------------------------------------------------------------------------------------------------------------


def test_without_a_word_about_formats_there_are_pairs() -> None:
    found = plan()
    assert [name for name in found if name.startswith("ppt/")] == ["ppt/pair"]
    assert found["ppt/pair"].config.format == "pair"
    for name, step in found.items():
        if name.startswith("prompts/"):
            assert ("ppt/pair" in {item.name for item in step.upstream()}) is ("/ppt/" in name)


def test_every_format_is_a_step_with_a_seed_and_settings_of_its_own() -> None:
    found = plan(ALL, *ROOM, "ppt.single.min_confidence=0.7")
    ours = {name: step.config for name, step in found.items() if name.startswith("ppt/")}
    assert list(ours) == ["ppt/pair", "ppt/choice", "ppt/single", "ppt/unified"]
    for name, config in ours.items():
        assert config.format == name.removeprefix("ppt/")
        assert config.seed == derive_seed(read().seed, name)
    assert ours["ppt/choice"].num_options == (5, 5)
    assert ours["ppt/unified"].num_options == (2, 5)
    assert ours["ppt/single"].single.min_confidence == 0.7
    assert set(ours) <= set(found["report"].config.steps)


@pytest.mark.parametrize(
    ("override", "touched"),
    [
        ("ppt.choice_options=4", "ppt/choice"),
        ("ppt.unified_options=[3, 5]", "ppt/unified"),
        ("ppt.single.min_confidence=0.9", "ppt/single"),
    ],
)
def test_settings_of_a_format_leave_the_others_alone(override: str, touched: str) -> None:
    before, after = plan(ALL, *ROOM), plan(ALL, *ROOM, override)
    assert {name for name in before if before[name].config != after[name].config} == {touched}


def test_a_classifier_is_an_asset_of_single_alone(tmp_path: Path) -> None:
    (tmp_path / "classifier.json").write_text("{}")
    override = f"ppt.single.classifier={tmp_path}"
    found = plan(ALL, *ROOM, override)
    assert found["ppt/single"].assets["classifier"] == identity(str(tmp_path))
    assert not any("classifier" in found[name].assets for name in ("ppt/pair", "ppt/choice", "ppt/unified"))
    assert read(ALL, *ROOM, override).assets["ppt.single.classifier"] == str(tmp_path)
    assert "ppt.single.classifier" not in read(override).assets, "nothing is fetched for a format that is not there"


# --- who starts from which -------------------------------------------------------------------------------------------

PATTERNS = {"one": "{text} is {mask}", "two": "{text}? {mask}, {other}", "twice": "{text} {text} {mask}"}
WORDS = {"a": ["bad"], "b": ["good"]}
PLAIN = Task(name="plain", labels=("a", "b"), patterns=PATTERNS, verbalizer=WORDS)
OPTIONS = Task(
    name="copa",
    labels=("a", "b"),
    options={"a": "first", "b": "second"},
    patterns={"two": "{text}, so {option} {mask}"},
    verbalizer={"right": ["yes"], "wrong": ["no"]},
)


@pytest.mark.parametrize(
    ("task", "pattern", "kind"),
    [(OPTIONS, "two", "choice"), (PLAIN, "two", "pair"), (PLAIN, "one", "single"), (PLAIN, "twice", "single")],
)
def test_the_fitting_format_follows_from_the_task(task: Task, pattern: str, kind: PretrainingFormat) -> None:
    assert prompts.matching_format(task, pattern) == kind
    everything: tuple[PretrainingFormat, ...] = ("unified", "single", "choice", "pair")
    assert prompts.select_format(task, pattern, everything) == kind
    assert prompts.select_format(task, pattern, everything, "unified") == "unified", "a name goes first"
    without = tuple(item for item in everything if item != kind)
    assert prompts.select_format(task, pattern, without) == "unified"
    [other, *_] = (item for item in without if item != "unified")
    assert prompts.select_format(task, pattern, (other,)) == other, "the only one"
    two = tuple(item for item in without if item != "unified")
    with pytest.raises(InputError, match=f"{kind} fits the task {task.name}") as caught:
        prompts.select_format(task, pattern, two)
    assert ", ".join(two) in caught.value.problem


@pytest.mark.parametrize("together", ["true", "false"])
def test_prompts_start_from_the_prompt_of_their_format(together: str) -> None:
    pair = "task.patterns.review='{text} {text_b} is {mask}.'"
    found = plan(ALL, *ROOM, pair, "prompts.tasks.1.format=unified", f"prompts.together={together}")
    expected = {"rotten_tomatoes": "pair", "plot_or_quote": "unified"}
    for task, kind in expected.items():
        step = found[f"prompts/{task}/ppt/0"]
        if together == "true":
            shared = found["prompts/together"]
            [job] = [job for job in shared.config.jobs if job.name == step.name]
            assert shared.inputs["pretrained"][job.pretrained].name == f"ppt/{kind}"
        else:
            assert step.inputs["pretrained"].name == f"ppt/{kind}"
            assert "pretrained" not in found[f"prompts/{task}/random/0"].inputs


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (["prompts.tasks.0.format=choice"], "prompts.tasks.0.format", "format choice; ppt.formats are pair."),
        (["ppt.formats=[pair, choice]"], "prompts.tasks.0.format", "in other formats: pair, choice."),
        (["ppt.formats=[pair, choice]", "prompts.tasks.0.format=pair"], "prompts.tasks.1.format", "plot_or_quote"),
        (["ppt.formats=[pair, pair]"], "ppt.formats", "pair is listed twice"),
        (["ppt.formats=[]"], "ppt.formats", "at least 1"),
        (["ppt.formats=[pear]"], "ppt.formats.0", "'pair'"),
        (["ppt.formats=[unified]", "ppt.unified_options=[5, 4]"], "ppt.unified_options", "5 options are more than 4"),
        (["ppt.unified_options=[1, 4]"], "ppt.unified_options.0", "greater than or equal to 2"),
        (["ppt.choice_options=27"], "ppt.choice_options", "less than or equal to 26"),
        (["ppt.formats=[choice]"], "ppt.choice_options", "48 tokens are too few for a sentence and 6 options"),
        (["ppt.formats=[unified]"], "ppt.unified_options", "too few for a sentence and 16 options"),
        (["ppt.formats=[choice]", "ppt.choice_options=5", "ppt.corpus.window=3"], "ppt.corpus.window", "4 documents"),
        (["ppt.single.pattern='{body} {mask}'"], "ppt.single.pattern", "not one of text alone"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(overrides: list[str], key: str, problem: str) -> None:
    error = refused(*overrides)
    assert error.key == key
    assert problem in error.problem


def test_a_format_without_pretraining_is_refused() -> None:
    random = "prompts.methods={random: {init: {kind: normal}}}"
    assert refused("ppt=null", random, "prompts.tasks.1.format=pair").key == "prompts.tasks.1.format"
    assert plan("ppt=null", random)
    assert plan("ppt.formats=[pair, choice]", "ppt.choice_options=5", random), (
        "where nothing starts from one, none fits"
    )


# --- before a run ----------------------------------------------------------------------------------------------------


def section(tmp_path: Path, lines: list[str], **settings: Any) -> PptSection:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    corpus = {"source": {"asset": str(path)}, "max_sentence_words": 8}
    return PptSection.model_validate({"corpus": corpus, "training": {"learning_rate": 0.1, "steps": 1}} | settings)


def document(number: int) -> str:
    return " ".join(f"This is sentence {place} of text {number}." for place in range(4))


def test_a_corpus_is_read_before_a_run_as_far_as_tells_that_it_suffices(tmp_path: Path) -> None:
    lines = [document(number) for number in range(5)]
    assert check_corpus(section(tmp_path, lines, formats=["pair", "choice", "single"])) is None
    with pytest.raises(DataError, match=r"has 4 documents of 3 .* the format choice needs 5") as caught:
        check_corpus(section(tmp_path, lines[1:], formats=["pair", "choice"]))
    assert caught.value.key == "ppt.corpus"
    with pytest.raises(DataError, match="there is no column 'body'") as caught:
        check_corpus(section(tmp_path, lines, corpus={"source": {"asset": str(tmp_path / "corpus.txt"),
                                                                 "fields": {"text": "body"}}}))  # fmt: skip
    assert caught.value.key == "ppt.corpus.source"
    behind = tmp_path / "corpus.txt"
    behind.write_bytes(("\n".join(lines) + "\n" * 70_000).encode() + b"\xff")
    right = {"corpus": {"source": {"asset": str(behind)}}, "training": {"learning_rate": 0.1, "steps": 1}}
    assert check_corpus(PptSection.model_validate(right)) is None, "the broken end was not read"


def vocabulary(*words: str) -> Tokenizer:
    pieces = {piece: number for number, piece in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


GIVEN = ("yes", "maybe", "no", *"ABCDEF", "terrible", "bad", "okay", "good", "great")


@pytest.mark.parametrize(
    ("kind", "left_out", "key"),
    [
        ("pair", "maybe", "ppt.formats"),
        ("choice", "F", "ppt.formats"),
        ("unified", "C", "ppt.formats"),
        ("single", "okay", "ppt.single.words"),
    ],
)
def test_the_words_of_every_format_must_be_in_the_vocabulary(
    kind: PretrainingFormat, left_out: str, key: str, tmp_path: Path
) -> None:
    ppt = section(tmp_path, [], formats=[kind], unified_options=[2, 4])
    assert check_formats(ppt, "masked", vocabulary(*GIVEN)) is None
    with pytest.raises(InputError, match=f"{left_out!r} of {left_out!r} is not in the backbone's vocabulary") as caught:
        check_formats(ppt, "masked", vocabulary(*(word for word in GIVEN if word != left_out)))
    assert caught.value.key == key


def test_letters_must_be_single_tokens(tmp_path: Path) -> None:
    """In a BPE vocabulary " A" may be one token and " B" two."""
    pieces = {piece: number for number, piece in enumerate(["Ġ", "A", "B", "C", "ĠA", "ĠB"])}
    merges = [("Ġ", "A"), ("Ġ", "B")]
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert check_formats(section(tmp_path, [], formats=["choice"], choice_options=2), "causal", tokenizer) is None
    with pytest.raises(InputError, match="the letter C, which stands for an option, is no single token") as caught:
        check_formats(section(tmp_path, [], formats=["choice"], choice_options=3), "causal", tokenizer)
    assert "ppt.choice_options" in caught.value.remedy


def test_letters_and_words_are_single_tokens_of_the_shipped_backbone() -> None:
    """A WordPiece vocabulary of a real model."""
    tokenizer = bare_tokenizer(read_recipe(find_recipe("smoke"), PipelineConfig).backbone)
    ids = [word_tokens(word, tokenizer) for word in (*LETTERS, *GIVEN[-5:])]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == len(ids)


def test_padding_that_a_tokenizer_s_file_asks_for_makes_no_words_longer(tmp_path: Path) -> None:
    tokenizer = vocabulary("[PAD]", *GIVEN)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    found = bare_tokenizer(BackboneConfig(asset=str(tmp_path)))
    assert len(word_tokens("good", found)) == 1
    assert model_folder(str(tmp_path)) == tmp_path


def test_a_classifier_of_other_labels_is_found_before_a_run(tmp_path: Path) -> None:
    about = {"labels": ["rotten", "fresh"], "fields": ["text"]}
    (tmp_path / "classifier.json").write_text(json.dumps(about))
    settings = {"classifier": str(tmp_path)}
    with pytest.raises(InputError, match=r"labels are .*'fresh', 'rotten'") as caught:
        check_formats(section(tmp_path, [], formats=["single"], single=settings), "masked", vocabulary(*GIVEN))
    assert caught.value.key == "ppt.single.words"
    words = {"rotten": ["bad"], "fresh": ["good"]}
    fits = section(tmp_path, [], formats=["single"], single=settings | {"words": words})
    assert check_formats(fits, "masked", vocabulary(*GIVEN)) is None
    (tmp_path / "classifier.json").unlink()
    with pytest.raises(AssetError) as broken:
        check_formats(fits, "masked", vocabulary(*GIVEN))
    assert broken.value.key == "ppt.single.classifier"


def test_a_section_knows_its_formats() -> None:
    with pytest.raises((ValidationError, InputError), match="listed twice"):
        PptSection.model_validate({"formats": ["pair", "pair"], "corpus": {"source": {"asset": "x.txt"}},
                                   "training": {"learning_rate": 0.1, "steps": 1}})  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs/ppt.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_of_the_page_is_a_valid_part_of_a_recipe(number: int) -> None:
    values = yaml.safe_load(find_recipe("smoke").read_text())
    for name, section in BLOCKS[number].items():
        values[name] = {**values[name], **section}
    config = load_config(values)
    if number == 1:
        assert config.ppt is not None
        assert config.ppt.single == SingleConfig(), "the page shows the defaults"
