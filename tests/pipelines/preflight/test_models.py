"""Checks of patterns, label words, prompts and lengths against backbones and their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.preflight.chain_of_thought import BareTokenizer
from pipelines.preflight.checks import check_facts, check_recipe
from pipelines.preflight.models import (
    bare_tokenizer,
    check_folders,
    check_formats,
    check_generation,
    check_lengths,
    check_models,
    check_token_level_family,
)
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import errors_located_in
from stages.chain_of_thought.config import ChainOfThoughtConfig
from stages.chain_of_thought.prompts import Prompts
from stages.common.errors import AssetError, DataError, InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import model_folder
from stages.common.models.traits_cache import folder_max_positions
from stages.common.patterns.verbalizers import word_tokens
from stages.prompt_pretraining.formats import LETTERS, PretrainingFormat
from tests.support.generation_tasks import generation_overrides
from tests.support.recipe_files import CAUSAL, ppt_section
from tests.support.small_models import TOKENIZERS, film_example
from tests.support.token_level_tasks import token_level_overrides

SOFT = 'task.patterns.verdict="{text} {soft:2} {mask}"'
AS_PROMPTS = ("pet.tune=prompt", "pet.training={learning_rate: 0.01, steps: 2}")
FITTING = "pet.demonstrations={max_length: 16}"
ALL_WORDS = ("yes", "maybe", "no", *"ABCDEF", "terrible", "bad", "okay", "good", "great")
"""Label words of all pretraining formats."""


def error_of(path: Path) -> InputError:
    """Returns the error of the recipe at `path`, with its location."""
    with pytest.raises(InputError) as caught, errors_located_in(path):
        check_recipe(read_recipe(path, PipelineConfig), lambda *task: None)
    return caught.value


def test_a_causal_backbone_accepts_text_after_the_mask(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    check_recipe(read_recipe(recipe, PipelineConfig), lambda *task: None)


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("task.decoding=parallel", "task.decoding", "for masked models"),
        ("pet.mlm={}", "pet.mlm", "for masked models"),
        ("pet.label_conditioning={}", "pet.label_conditioning", "is causal, and predicts the tokens of a text before"),
    ],
)
def test_settings_for_masked_models_are_errors_for_others(override: str, key: str, problem: str, recipe: Path) -> None:
    check_recipe(read_recipe(recipe, PipelineConfig, [override]), lambda *task: None)
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    for only_cached in (False, True):
        with pytest.raises(InputError, match=problem) as caught:
            check_models(read_recipe(recipe, PipelineConfig, [override]), only_cached=only_cached)
        assert caught.value.key == key
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("pet.patterns=[verdict]", "pet.prompt={hard_prompt_steps: 2}"), "pet.prompt", "'verdict' has none"),
        (
            ("pet.patterns=[review]", "pet.prompt={num_virtual_tokens: 40}"),
            "backbone.max_length",
            "a prompt of 40 vectors",
        ),
    ],
)
def test_prompts_of_submodels_must_fit_patterns_and_length(
    overrides: tuple[str, ...], key: str, problem: str, recipe: Path
) -> None:
    soft = (SOFT, *AS_PROMPTS, "pet.patterns=[review, verdict]")
    check_recipe(read_recipe(recipe, PipelineConfig, soft), lambda *task: None)
    pattern = SOFT if "verdict" in overrides[0] else "name=other"
    with pytest.raises(InputError, match=problem) as caught:
        check_recipe(read_recipe(recipe, PipelineConfig, (pattern, *AS_PROMPTS, *overrides)), lambda *task: None)
    assert caught.value.key == key


def test_demonstrations_must_fit_the_positions(recipe: Path) -> None:
    """The backbone has 64 positions, of which a text takes 32."""
    shots = "data.shots=4"
    check_recipe(read_recipe(recipe, PipelineConfig, [shots, FITTING]), lambda *task: None)
    too_long = FITTING.replace("16", "17")
    with pytest.raises(InputError, match="2 demonstrations of 17 tokens") as caught:
        check_recipe(read_recipe(recipe, PipelineConfig, [shots, too_long]), lambda *task: None)
    assert caught.value.key == "pet.demonstrations.max_length"
    assert "Lower it to 16 or less" in caught.value.remedy


def test_deep_prompts_are_errors_for_models_that_do_not_support_them(recipe: Path) -> None:
    deep = ("prompts.methods={v2: {method: p_tuning_v2}}",)
    check_recipe(read_recipe(recipe, PipelineConfig, deep), lambda *task: None)
    path = recipe.parent / "backbone" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "deberta-v2"}))
    with pytest.raises(InputError, match="prefix tuning and P-tuning v2: it does not look up its attention") as caught:
        check_models(read_recipe(recipe, PipelineConfig, deep))
    assert caught.value.key == "prompts.methods.v2"


def test_a_verbalizer_search_needs_the_mask_at_the_end_for_causal_models(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    words = ["task.verbalizer={}", "verbalizer_search={}", "prompts=null"]
    with pytest.raises(InputError, match="no words can be found for pattern 'review'") as caught:
        check_models(read_recipe(recipe, PipelineConfig, words))
    assert caught.value.key == "task.patterns.review"


THOUGHT = 'chain_of_thought={question: "{text} Is it good?", methods: {zero_shot: {max_rationale_tokens: 64}}}'


def test_chain_of_thought_needs_a_causal_model(recipe: Path) -> None:
    config = read_recipe(recipe, PipelineConfig, [THOUGHT])
    for only_cached in (False, True):
        with pytest.raises(
            InputError, match="needs a causal model, which writes text, but the backbone is masked"
        ) as caught:
            check_models(config, only_cached=only_cached)
        assert caught.value.key == "chain_of_thought"
        assert caught.value.remedy
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    check_models(config)


def thought(**settings: Any) -> list[str]:
    """Returns an override with a method of chain of thought, and two demonstrations."""
    words = ["good"] * 3, ["good", "bad"] * 10
    shown = [{"fields": {"text": " ".join(item)}, "rationale": "good. The answer is fresh."} for item in words]
    section = {"question": "{text} good?", "demonstrations": shown, "methods": {"few": settings}}
    return [f"chain_of_thought={json.dumps(section)}"]


def test_rationales_must_fit_into_the_positions_of_the_backbone(recipe: Path) -> None:
    # of the 9 words before a rationale and an answer, each is one unknown token of the small vocabulary
    used = 32 + len(["Let", "'", "s", "think", "step", "by", "step", "."]) + 64 + len(["The", "answer", "is"]) + 16
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps({**CAUSAL, "n_positions": used - 1}))
    with pytest.raises(InputError, match=f"up to {used} tokens, more than the {used - 1} positions") as caught:
        check_models(read_recipe(recipe, PipelineConfig, [THOUGHT]))
    assert caught.value.key == "chain_of_thought.methods.zero_shot.max_rationale_tokens"
    check_models(read_recipe(recipe, PipelineConfig, [THOUGHT.replace("64", "63")]))


def test_the_shortest_demonstration_must_fit_before_the_longest_question(recipe: Path) -> None:
    used, shortest = (
        32 + 40,
        len(["good", "good", "good", "good", "?", "good", ".", "The", "answer", "is", "fresh", "."]),
    )
    enough = json.dumps({**CAUSAL, "n_positions": used + shortest})
    (recipe.parent / "backbone" / "config.json").write_text(enough.replace(str(used + shortest), str(used + 1)))
    settings = {"num_demonstrations": 2, "max_rationale_tokens": 40}
    with pytest.raises(InputError, match=f"after a demonstration of {shortest} tokens, more than the {used + 1}") as e:
        check_models(read_recipe(recipe, PipelineConfig, thought(**settings)))
    assert e.value.key == "chain_of_thought.methods.few.max_rationale_tokens"
    (recipe.parent / "backbone" / "config.json").write_text(enough)
    check_models(read_recipe(recipe, PipelineConfig, thought(**settings)))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bare_tokenizer_counts_as_that_of_transformers(family: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[family]()
    tokenizer.save_pretrained(tmp_path)
    bare = BareTokenizer(Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    examples = [{"fields": {"text": "A </s> film"}, "rationale": "It was great. The answer is fresh."}]
    config = ChainOfThoughtConfig(
        question="Q: {text}\nA:", demonstrations=examples, num_demonstrations=1, labels=("fresh", "rotten"),
        answers={"fresh": ("fresh",), "rotten": ("rotten",)}, backbone={"asset": str(tmp_path), "max_length": 32},
    )  # fmt: skip
    written = [Prompts(config, item, None).rationale_prompt(film_example(1)) for item in (tokenizer, bare)]
    assert written[0] == written[1]
    assert len(written[0]) > 20


def test_only_seq2seq_models_generate_patterns(recipe: Path) -> None:
    search = ["pattern_search={generate: {}}", "prompts=null"]
    with pytest.raises(InputError, match="only a seq2seq model such as T5 fills gaps") as caught:
        check_models(read_recipe(recipe, PipelineConfig, search))
    assert caught.value.key == "pattern_search.generate"
    own = [f"pattern_search={{generate: {{backbone: {{asset: '{recipe.parent / 'backbone'}'}}}}}}", "prompts=null"]
    with pytest.raises(InputError, match=r"Set generate\.backbone to a seq2seq model") as caught:
        check_models(read_recipe(recipe, PipelineConfig, own))
    assert caught.value.key == "pattern_search.generate"
    check_models(read_recipe(recipe, PipelineConfig, ["pattern_search={gradient: {}}", "prompts=null"]))


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("members.mnli={kind: nli, asset: FOLDER}", "members.mnli.asset", "no label for entailment"),
        ("pattern_search={paraphrase: {model: FOLDER}}", "pattern_search.paraphrase.model", "is no seq2seq model"),
        (
            "pattern_search={paraphrase: {model: hf:org/nowhere, back_translation: FOLDER}}",
            "pattern_search.paraphrase.back_translation",
            "is no seq2seq model",
        ),
    ],
)
def test_models_for_other_uses_are_errors(override: str, key: str, problem: str, recipe: Path) -> None:
    overrides = [override.replace("FOLDER", str(recipe.parent / "backbone")), "prompts=null"]
    with pytest.raises(AssetError, match=problem) as caught:
        check_folders(read_recipe(recipe, PipelineConfig, overrides), only_cached=True)
    assert caught.value.key == key


def test_texts_of_nli_members_fit_into_the_positions(recipe: Path) -> None:
    folder = recipe.parent / "backbone"
    config = read_recipe(recipe, PipelineConfig, [f"members.mnli={{kind: nli, asset: '{folder}', max_length: 65}}"])
    with pytest.raises(InputError, match="65 tokens are more than the 64 positions") as caught:
        check_lengths(config)
    assert caught.value.key == "members.mnli.max_length"


def test_facts_without_a_template_are_an_error(recipe: Path) -> None:
    source = f"{{asset: '{recipe.parent / 'kinds.jsonl'}', fields: {{subject: text, relation: kind}}, label: text}}"
    override = (
        "knowledge_probing={templates: {plot: '[X] is [Y]'}, data: {train: SOURCE, test: SOURCE}, methods: {a: {}}}"
    )
    config = read_recipe(recipe, PipelineConfig, [override.replace("SOURCE", source)])
    assert config.knowledge_probing is not None
    with pytest.raises(DataError, match="relation 'quote', which has no template"):
        check_facts(config.knowledge_probing, only_cached=True)


@pytest.mark.parametrize(
    ("words", "tune", "key", "problem"),
    [
        ("{plot: [story], quote: [zebra]}", "lora", "tasks.0.task.verbalizer.quote", "is not in the backbone's"),
        ("{plot: [story], quote: [review]}", "biases", "", ""),
    ],
)
def test_words_of_instruction_tasks_are_in_the_vocabulary(
    words: str, tune: str, key: str, problem: str, recipe: Path
) -> None:
    source = f"{{asset: '{recipe.parent / 'kinds.jsonl'}', label: kind}}"
    task = f"{{name: other, labels: [plot, quote], patterns: {{kind: '{{text}} is a {{mask}}'}}, verbalizer: {words}}}"
    tasks = f"[{{task: {task}, data: {{pool: {source}, shots: 2, unlabeled_size: 0, test_size: 5}}}}]"
    override = f"instruction_tuning={{tasks: {tasks}, tune: {tune}, training: {{learning_rate: 1, steps: 1}}}}"
    config = read_recipe(recipe, PipelineConfig, [override])
    if not problem:
        assert check_models(config) is None
        return
    with pytest.raises(InputError, match=problem) as caught:
        check_models(config)
    assert caught.value.key == f"instruction_tuning.{key}"


def test_a_plan_skips_models_that_are_not_cached(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    cached = read_recipe(recipe, PipelineConfig, ["pet.mlm={}"])
    with pytest.raises(InputError, match="for masked models"):
        check_models(cached, only_cached=True)
    remote = cached.model_copy(update={"backbone": cached.backbone.model_copy(update={"asset": "hf:org/nowhere"})})
    assert check_models(remote, only_cached=True) is None


def test_cls_pooling_is_an_error_for_causal_students(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    overrides = [f"students.small={{asset: '{recipe.parent / 'backbone'}', max_length: 32, pooling: cls}}"]
    with pytest.raises(InputError, match="reads only itself") as caught:
        check_recipe(read_recipe(recipe, PipelineConfig, overrides), lambda *task: None)
    assert caught.value.key == "students.small.pooling"


def _no_head(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_no_head, "is a BertModel, which has no language-model head"),
        (_no_config, "has no readable config.json"),
        (_broken_tokenizer, "tokenizer"),
    ],
)
def test_an_unusable_backbone_is_an_error(damage: Callable[[Path], None], problem: str, recipe: Path) -> None:
    damage(recipe.parent / "backbone")
    error = error_of(recipe)
    assert error.key == "backbone.asset"
    assert error.where == f"{recipe}:20"
    assert problem in error.problem
    assert error.remedy


def test_a_backbone_without_tokenizer_is_an_error(recipe: Path) -> None:
    _no_tokenizer(recipe.parent / "backbone")
    error = error_of(recipe)
    assert error.key == "backbone.asset"
    assert "contains no tokenizer" in error.problem
    assert "tokenizer.json" in error.remedy


def test_deep_prompts_of_token_level_tasks_are_errors_for_seq2seq_models(tmp_path: Path) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, token_level_overrides(tmp_path))
    check_token_level_family(config, "masked")
    with pytest.raises(InputError, match="use the encoder of a seq2seq model") as caught:
        check_token_level_family(config, "seq2seq")
    assert caught.value.key == "prompts.methods.v2.method"


def test_generation_is_an_error_for_masked_models_and_without_positions(tmp_path: Path) -> None:
    overrides = (*generation_overrides(tmp_path), "prompts.methods={tuning: {num_virtual_tokens: 3}}")
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    with pytest.raises(InputError, match="is masked, and generates no texts") as caught:
        check_generation(config, "masked")
    assert caught.value.key == "prompts.generation.tables"
    check_generation(config, "causal")
    size = folder_max_positions(model_folder(config.language_model.asset), trust_remote_code=False)
    assert size is not None
    # the longest prompt, of `ppt`, has 4 vectors; a causal model has the input of 48 tokens in its positions, too
    for family, fitting in (("causal", size - 48 - 4), ("seq2seq", size - 4)):
        longest = f"prompts.generation.tables.max_new_tokens={fitting}"
        check_generation(read_recipe(find_recipe("smoke"), PipelineConfig, (*overrides, longest)), family)
        longer = f"prompts.generation.tables.max_new_tokens={fitting + 1}"
        with pytest.raises(InputError, match=f"more than the {size} positions") as caught:
            check_generation(read_recipe(find_recipe("smoke"), PipelineConfig, (*overrides, longer)), family)
        assert caught.value.key == "prompts.generation.tables.max_new_tokens"


def vocabulary(*words: str) -> Tokenizer:
    pieces = {piece: number for number, piece in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.mark.parametrize(
    ("kind", "missing", "key"),
    [
        ("pair", "maybe", "ppt.formats"),
        ("choice", "F", "ppt.formats"),
        ("unified", "C", "ppt.formats"),
        ("single", "okay", "ppt.single.verbalizer"),
    ],
)
def test_check_formats_needs_the_words_of_every_format_in_the_vocabulary(
    kind: PretrainingFormat, missing: str, key: str, tmp_path: Path
) -> None:
    ppt = ppt_section(tmp_path, [], formats=[kind], unified_options=[2, 4])
    assert check_formats(ppt, "masked", vocabulary(*ALL_WORDS)) is None
    with pytest.raises(InputError, match=f"{missing!r} of {missing!r} is not in the backbone's vocabulary") as caught:
        check_formats(ppt, "masked", vocabulary(*(word for word in ALL_WORDS if word != missing)))
    assert caught.value.key == key


def test_check_formats_needs_letters_that_are_single_tokens(tmp_path: Path) -> None:
    """In a BPE vocabulary " A" may be one token and " B" two."""
    pieces = {piece: number for number, piece in enumerate(["Ġ", "A", "B", "C", "ĠA", "ĠB"])}
    merges = [("Ġ", "A"), ("Ġ", "B")]
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert check_formats(ppt_section(tmp_path, [], formats=["choice"], choice_options=2), "causal", tokenizer) is None
    with pytest.raises(InputError, match="the letter C of an option is not a single token") as caught:
        check_formats(ppt_section(tmp_path, [], formats=["choice"], choice_options=3), "causal", tokenizer)
    assert "ppt.choice_options" in caught.value.remedy


def test_letters_and_words_are_single_tokens_of_the_shipped_backbone() -> None:
    """A WordPiece vocabulary of a real model."""
    tokenizer = bare_tokenizer(read_recipe(find_recipe("smoke"), PipelineConfig).backbone)
    ids = [word_tokens(word, tokenizer) for word in (*LETTERS, *ALL_WORDS[-5:])]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == len(ids)


def test_bare_tokenizer_turns_padding_off(tmp_path: Path) -> None:
    tokenizer = vocabulary("[PAD]", *ALL_WORDS)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    loaded = bare_tokenizer(BackboneConfig(asset=str(tmp_path)))
    assert len(word_tokens("good", loaded)) == 1
    assert model_folder(str(tmp_path)) == tmp_path


def test_check_formats_compares_the_labels_of_a_classifier(tmp_path: Path) -> None:
    payload = {"labels": ["rotten", "fresh"], "fields": ["text"]}
    (tmp_path / "classifier.json").write_text(json.dumps(payload))
    settings = {"classifier": str(tmp_path)}
    with pytest.raises(InputError, match=r"has the labels .*'fresh', 'rotten'") as caught:
        check_formats(ppt_section(tmp_path, [], formats=["single"], single=settings), "masked", vocabulary(*ALL_WORDS))
    assert caught.value.key == "ppt.single.verbalizer"
    verbalizer = {"rotten": ["bad"], "fresh": ["good"]}
    fits = ppt_section(tmp_path, [], formats=["single"], single=settings | {"verbalizer": verbalizer})
    assert check_formats(fits, "masked", vocabulary(*ALL_WORDS)) is None
    (tmp_path / "classifier.json").unlink()
    with pytest.raises(AssetError) as broken:
        check_formats(fits, "masked", vocabulary(*ALL_WORDS))
    assert broken.value.key == "ppt.single.classifier"
