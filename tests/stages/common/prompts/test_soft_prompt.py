"""Every method of soft prompting on every family of backbones: it learns, it is kept in PEFT's format, and it does what
it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.data.split_files import load_examples
from stages.common.errors import InputError, PatternError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.config import WORD_VECTORS, InitConfig, PromptConfig
from stages.common.prompts.deep_prompts import KVLayout, activations
from stages.common.prompts.initialization import init_vectors, initialize_prompt, new_prompt
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.prompts.prompt_modules import LowRankPrompt, PromptEmbedding
from stages.common.prompts.soft_prompt import Prompt
from stages.common.seeds import torch_rng
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task
from tests.support.stage_runs import SILENT, assert_a_seed_decides, logits_of, run, written

LOOP = TrainingConfig(learning_rate=0.05, batch_size=4, steps=24, lr_scheduler="constant", weight_decay=0.0)
METHODS: dict[str, PromptConfig] = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=5),
    "p_tuning_lstm": PromptConfig(method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_mlp": PromptConfig(
        method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5),
    "p_tuning_v2_mlp": PromptConfig(
        method="p_tuning_v2", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "low_rank": PromptConfig(num_virtual_tokens=5, rank=2),
    "low_rank_deep": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, rank=2),
    "with_lora": PromptConfig(num_virtual_tokens=5, lora=LoraConfig(rank=2)),
    "deep_with_lora": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, lora=LoraConfig(rank=2)),
}
SOFT = {
    "llama": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "gpt2": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "bert": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "roberta": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "t5": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
}


def tuned(folder: Path, name: str, **settings: Any) -> PromptTuningConfig:
    values = {"training": LOOP, "seed": 1, "task": film_task(name).only("review")} | settings
    return PromptTuningConfig(pattern="review", backbone=backbone_config(folder), **values)


def soft_task(name: str) -> Task:
    return film_task(name).only("review").model_copy(update={"patterns": {"review": SOFT[name]}})


def encoded(backbone: Backbone, name: str, texts: tuple[str, ...] = ("A dull plot.", "It was a warm film.")) -> Any:
    encoder = Encoder(film_task(name).pattern("review"), backbone.tokenizer, backbone.family, 64)
    return [encoder(Example(str(number), {"text": text})) for number, text in enumerate(texts)]


def check_learnt(config: PromptTuningConfig, data: Path, out: Path) -> Prompt:
    """Trains; the loss on the labelled set falls, and the prompt that was kept gives the logits that were written."""
    run(prompt_tuning, config, prompt_tuning.Inputs(data=data), out)
    train_set, test_set = (load_examples(data / f"{part}.jsonl") for part in ("train", "test"))
    backbone = load_backbone(config.backbone, frozen=True)
    start = initialize_prompt(config.prompt, config.task, "review", backbone, config.seed, None)
    classifier = ClozeClassifier.of(config.task, "review", backbone, config.backbone, start)
    items = classifier.items(train_set)
    with torch.inference_mode():
        before = float(classifier.loss(items))
    if config.prompt.lora:
        from peft import PeftModel

        PeftModel.from_pretrained(backbone.model, out / "prompt" / "lora")
        backbone.freeze()
    prompt = load_prompt(out / "prompt", backbone)
    classifier.prompt = prompt
    with torch.inference_mode():
        after = float(classifier.loss(items))
    assert after < before - 0.02
    assert classifier.predict(test_set, SILENT, "") == pytest.approx(logits_of(out), abs=5e-5)
    return prompt


def loop_for(method: str) -> TrainingConfig:
    """Adapters diverge at the learning rate of a prompt."""
    return LOOP.model_copy(update={"learning_rate": 0.003, "steps": 60}) if METHODS[method].lora else LOOP


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_learns_on_every_family_and_is_loaded_as_it_was(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders[name], name, prompt=METHODS[method], loop=loop_for(method))
    assert check_learnt(config, film_data, tmp_path / "out").num_vectors == 5


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_lstm", "prefix_tuning", "p_tuning_v2", "low_rank"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_peft_loads_every_prompt_and_computes_the_same(
    name: str, method: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    backbone = backbones[name]
    prompt = new_prompt(METHODS[method], backbone, film_task(name).pattern("review"), seed=3)
    with torch.no_grad():
        for weight in prompt.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch_rng(len(weight.shape))) * 0.2)
    save_prompt(prompt, backbone, tmp_path / "prompt", METHODS[method].method)
    kind = AutoModelForSeq2SeqLM if name == "t5" else AutoModelForCausalLM
    plain = kind.from_pretrained(backbone_folders[name], dtype=torch.float32, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(plain, tmp_path / "prompt").eval()
    for item in encoded(backbone, name):
        ids = torch.tensor([item.ids])
        arguments: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if name == "t5":
            sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            arguments["decoder_input_ids"] = torch.tensor([[0, sentinel]])
        with torch.inference_mode():
            expected = theirs(**arguments).logits[:, -1]
            found = backbone.vocabulary_logits(backbone.batch([item]), prompt())
            without = backbone.vocabulary_logits(backbone.batch([item]))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        assert (found - without).abs().max() > 0.01


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_a_prompt_that_peft_wrote_is_loaded(
    peft_type: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(backbone_folders["llama"], dtype=torch.float32)
    kind = PrefixTuningConfig if peft_type == "PREFIX_TUNING" else PromptTuningConfig
    theirs = get_peft_model(plain, kind(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    theirs.save_pretrained(tmp_path / "prompt")
    backbone = backbones["llama"]
    prompt = load_prompt(tmp_path / "prompt", backbone)
    item = encoded(backbone, "llama")[1]
    ids = torch.tensor([item.ids])
    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        found = backbone.vocabulary_logits(backbone.batch([item]), prompt())
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_and_company_change_nothing(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    items = encoded(backbone, name)
    assert len(items[0].ids) != len(items[1].ids)
    pattern = film_task(name).pattern("review")
    prompts = [new_prompt(METHODS[method], backbone, pattern, seed=seed) for seed in (1, 2)]
    stacked = prompts[0].soft_input(torch.stack([prompt.vectors for prompt in prompts]))
    with torch.inference_mode():
        together = backbone.vocabulary_logits(backbone.batch(items), stacked)
        pairs = zip(items, prompts, strict=True)
        alone = [backbone.vocabulary_logits(backbone.batch([item]), prompt()) for item, prompt in pairs]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_a_deep_prompt_of_a_causal_models_own_activations_is_as_if_it_had_read_the_words(
    backbones: dict[str, Backbone],
) -> None:
    for name in ("llama", "gpt2"):
        backbone = backbones[name]
        words = backbone.tokenizer("The film is warm.", add_special_tokens=False)["input_ids"]
        layers = KVLayout.of(backbone)
        rows = activations(backbone, layers, words)
        text = backbone.tokenizer(" It was", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            expected = backbone.model(input_ids=torch.tensor([[*words, *text]])).logits[:, -1]
            item = encoded(backbone, name)[0]
            item = type(item)(tuple(text), (0,) * len(text), len(text) - 1)
            prompt = Prompt(PromptEmbedding(rows), "layers", layers)
            found = backbone.vocabulary_logits(backbone.batch([item]), prompt())
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_attention_of_masked_models_sees_the_prefix(backbones: dict[str, Backbone]) -> None:
    """Against attention computed here, in the first layer of a BERT."""
    backbone = backbones["bert"]
    layers = KVLayout.of(backbone)
    rows = torch.randn(3, layers.width, generator=torch_rng(1))
    prefix = layers.keys_and_values(rows)
    item = encoded(backbone, "bert")[0]
    batch = backbone.batch([item])
    layer = backbone.model.bert.encoder.layer[0].attention.self
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, args, kwargs, out: seen.append(out[0]), with_kwargs=True)
    with torch.inference_mode():
        backbone.hidden_states(batch, SoftInput(layers=prefix))
        hook.remove()
        places = torch.arange(len(item.ids))[None] + 3
        states = backbone.model.bert.embeddings(batch.input_ids, batch.token_type_ids, places)[0]
        heads = [
            part.view(-1, 4, 8).transpose(0, 1)
            for part in (layer.query(states), layer.key(states), layer.value(states))
        ]
        keys, values = (torch.cat([prefix[0, side], heads[1 + side]], dim=1) for side in (0, 1))
        expected = (heads[0] @ keys.transpose(1, 2) / 8**0.5).softmax(dim=-1) @ values
    torch.testing.assert_close(seen[0][0], expected.transpose(0, 1).reshape(-1, 32), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["albert", "electra", "modernbert"])
def test_models_without_a_cache_take_deep_prompts_by_their_attention(kind: str) -> None:
    from transformers import (
        AlbertConfig,
        AlbertForMaskedLM,
        ElectraConfig,
        ElectraForMaskedLM,
        ModernBertConfig,
        ModernBertForMaskedLM,
    )

    small = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    kinds: dict[str, Any] = {
        "albert": lambda: AlbertForMaskedLM(AlbertConfig(**small, embedding_size=16)),
        "electra": lambda: ElectraForMaskedLM(ElectraConfig(**small, embedding_size=16)),
        "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**small, pad_token_id=0, cls_token_id=1)),
    }
    torch.manual_seed(0)
    model = kinds[kind]().eval()
    model.set_attn_implementation("eager")
    from stages.common.models.backbones.prefix_attention import prefixed

    width = 8
    pairs = [
        tuple(torch.randn(2, 4, 3, width, generator=torch_rng(number)).requires_grad_() for _ in "kv")
        for number in range(3)
    ]
    ids = torch.tensor([[1, 5, 6, 7, 8], [1, 5, 6, 0, 0]])
    mask = (ids > 0).long()
    with prefixed(model, list(pairs)):
        both = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    plain = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert (both - plain).abs().max() > 1e-3
    with prefixed(model, [(key[1:], value[1:]) for key, value in pairs]):
        alone = model.base_model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]).last_hidden_state
    torch.testing.assert_close(both[1:, :3], alone, atol=1e-5, rtol=1e-4)
    both.square().sum().backward()
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for pair in pairs for item in pair)


def test_a_model_with_an_attention_of_its_own_is_refused() -> None:
    from stages.common.models.model_files import check_deep

    check_deep("masked", "modernbert")
    check_deep("causal", "deberta-v2")
    with pytest.raises(InputError, match="deberta-v2 takes no deep prompt"):
        check_deep("masked", "deberta-v2")


# --- soft blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_soft_blocks_that_start_from_words_are_the_words(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    text = f"Review: {{text}} {{soft:{len(words)}:the film}} {{mask}}"
    task = film_task(name).only("review").model_copy(update={"patterns": {"review": text}})
    pattern = task.pattern("review")
    prompt = new_prompt(PromptConfig(), backbone, pattern, seed=1)
    config = backbone_config(Path("unused"))
    classifier = ClozeClassifier.of(task, "review", backbone, config, prompt)
    item = classifier.encode(film_examples(1)[0])[0]
    hard = type(item)(
        tuple(
            words[item.soft_positions.index(place)] if place in item.soft_positions else token
            for place, token in enumerate(item.ids)
        ),
        item.token_type_ids,
        item.mask_position,
    )
    with torch.inference_mode():
        found = backbone.vocabulary_logits(backbone.batch([item]), prompt())
        expected = backbone.vocabulary_logits(backbone.batch([hard]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_lstm", "low_rank", "with_lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_soft_blocks_in_a_pattern_learn(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    loop = loop_for(method)
    config = tuned(backbone_folders[name], name, prompt=METHODS[method], task=soft_task(name), loop=loop)
    prompt = check_learnt(config, film_data, tmp_path / "out")
    assert (prompt.position, prompt.num_vectors) == ("inside", 5)


def test_words_of_several_tokens_move_the_blocks_behind_them(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    task = soft_task("bert").model_copy(
        update={
            "patterns": {"review": "{text} {mask} {soft:2}."},
            "verbalizer": {"rotten": ["so bad"], "fresh": ["good"]},
        }
    )
    prompt = new_prompt(PromptConfig(), backbone, task.pattern("review"), seed=1)
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config(Path("unused")), prompt)
    item = classifier.encode(film_examples(1)[0])[0]
    assert item.soft_positions == (item.mask_position + 1, item.mask_position + 2)
    assert item.with_masks(3).soft_positions == (item.mask_position + 3, item.mask_position + 4)
    found = classifier.predict(film_examples(4), SILENT, "")
    alone = np.concatenate([classifier.predict([one], SILENT, "") for one in film_examples(4)])
    assert found == pytest.approx(alone, abs=1e-4)


def test_a_curriculum_holds_the_words_and_then_frees_them(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def trained(hard_prompt_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        prompt = PromptConfig(hard_prompt_steps=hard_prompt_steps)
        config = tuned(backbone_folders["gpt2"], "gpt2", prompt=prompt, task=soft_task("gpt2"))
        backbone = load_backbone(config.backbone, frozen=True)
        start = initialize_prompt(config.prompt, config.task, "review", backbone, config.seed, None).vectors
        out = tmp_path / str(hard_prompt_steps)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), out)
        return start, load_prompt(out / "prompt", backbone).vectors

    start, end = trained(LOOP.steps or 0)
    assert torch.equal(start[2:], end[2:]), "held to the end"
    assert not torch.equal(start[:2], end[:2])
    start, end = trained(3)
    assert (start[2:] != end[2:]).any(dim=1).all(), "freed after three steps"
    assert WORD_VECTORS == "table.words"


# --- starts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_deep_prompts_start_from_activations_of_real_words(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    pattern = film_task(name).pattern("review")
    layers = KVLayout.of(backbone)
    config = PromptConfig(method="p_tuning_v2", num_virtual_tokens=4, init=InitConfig(kind="text", text="the film"))
    found = new_prompt(config, backbone, pattern, seed=1).vectors
    ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    expected = activations(backbone, layers, [ids[number % len(ids)] for number in range(4)])
    assert found.shape == (4, layers.width)
    assert torch.equal(found, expected)
    assert layers.rows(layers.keys_and_values(found)).equal(found)


def test_label_words_and_the_first_token_are_starts(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    table = backbone.model.get_input_embeddings().weight
    found = init_vectors(InitConfig(kind="label_words"), 5, backbone, torch_rng(0), label_words=[7, 9])
    assert torch.equal(found, table[[7, 9, 7, 9, 7]])
    found = init_vectors(InitConfig(kind="cls"), 2, backbone, torch_rng(0))
    assert torch.equal(found, table[[backbone.tokenizer.cls_token_id] * 2])
    with pytest.raises(InputError, match="no label words"):
        init_vectors(InitConfig(kind="label_words"), 5, backbone, torch_rng(0))
    with pytest.raises(InputError, match="not all in the backbone's vocabulary"):
        init_vectors(InitConfig(kind="text", text="漢字"), 5, backbone, torch_rng(0))


def test_a_table_of_low_rank_starts_as_it_is_told_and_has_few_parameters() -> None:
    start = torch.randn(6, 32)
    table = LowRankPrompt(start, 2)
    assert torch.equal(table(), start)
    assert sum(item.numel() for item in table.parameters()) == 2 * (6 + 32)


@pytest.mark.parametrize("method", ["p_tuning_lstm", "prefix_tuning", "p_tuning_v2", "low_rank", "with_lora"])
def test_a_seed_decides(method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    def once(seed: int, where: str) -> dict[str, bytes]:
        loop = LOOP.model_copy(update={"steps": 2})
        config = tuned(backbone_folders["gpt2"], "gpt2", prompt=METHODS[method], seed=seed, loop=loop)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / where)
        return written(tmp_path / where)

    assert_a_seed_decides(once)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "prompt_tuning", "reparameterization": "lstm"}, "not reparameterised by lstm"),
        ({"method": "p_tuning", "rank": 2}, "rank is for vectors that no lstm makes"),
        ({"method": "p_tuning", "init": "ppt"}, "does not start from ppt"),
        ({"method": "p_tuning_v2", "init": "ppt"}, "does not start from ppt"),
        ({"method": "p_tuning_v2", "start": InitConfig(kind="mean")}, "no mean to start from"),
        ({"method": "p_tuning_v2", "hard_prompt_steps": 2}, "hard_prompt_steps are for plain prompt tuning"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**settings)


def test_methods_and_patterns_that_do_not_go_together_are_refused(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["gpt2"]
    soft, hard = soft_task("gpt2").pattern("review"), film_task("gpt2").pattern("review")
    with pytest.raises(InputError, match="puts its vectors into every layer"):
        new_prompt(METHODS["p_tuning_v2"], backbone, soft, seed=0)
    with pytest.raises(InputError, match="'review' has none"):
        new_prompt(PromptConfig(hard_prompt_steps=2), backbone, hard, seed=0)
    with pytest.raises(InputError, match="5 soft vectors, and the pretrained prompt has 4"):
        new_prompt(PromptConfig(init="ppt"), backbone, soft, seed=0, pretrained=torch.zeros(4, 32))
    with pytest.raises(PatternError, match="only prompt tuning trains"):
        ClozeClassifier.of(soft_task("gpt2"), "review", backbone, backbone_config(Path("unused")))
    behind = soft_task("gpt2").model_copy(update={"patterns": {"review": "{text}{mask} it {soft:2}"}})
    prompt = new_prompt(PromptConfig(), backbone, behind.pattern("review"), seed=0)
    with pytest.raises(PatternError, match="behind the mask"):
        ClozeClassifier.of(behind, "review", backbone, backbone_config(Path("unused")), prompt)


def test_a_prompt_of_another_backbone_is_refused(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    backbone = backbones["gpt2"]
    for method in ("prompt_tuning", "p_tuning_v2"):
        prompt = new_prompt(METHODS[method], backbone, film_task("gpt2").pattern("review"), seed=0)
        save_prompt(prompt, backbone, tmp_path / method)

    def other(num_layers: int, width: int = 32) -> Backbone:
        config = GPT2Config(vocab_size=300, n_embd=width, n_layer=num_layers, n_head=4, n_positions=64)
        return Backbone(GPT2LMHeadModel(config), backbone.tokenizer, "causal").freeze()

    with pytest.raises(InputError, match="another backbone of the same width"):
        load_prompt(tmp_path / "prompt_tuning", other(2))
    with pytest.raises(InputError, match="width 32, the backbone takes 16"):
        load_prompt(tmp_path / "prompt_tuning", other(2, 16))
    with pytest.raises(InputError, match="another backbone of the same shape"):
        load_prompt(tmp_path / "p_tuning_v2", other(2))
    with pytest.raises(InputError, match=r"for 2 layers of width 32, the backbone has 3 of width 32"):
        load_prompt(tmp_path / "p_tuning_v2", other(3))
    with pytest.raises(InputError, match="holds no soft prompt"):
        load_prompt(tmp_path, backbone)


# --- linear head --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_linear_head_takes_the_place_of_words(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    from stages.common.prompts.loader import load_prompts

    prompt = METHODS[method].model_copy(update={"head": "linear"})
    task = film_task(name).only("review").model_copy(update={"verbalizer": {}})
    config = tuned(backbone_folders[name], name, prompt=prompt, task=task)
    result = run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out")
    assert result.final_loss < 0.6, "a head that starts from zero starts at log 2"
    assert result.trainable_parameters == load_prompt(
        tmp_path / "out" / "prompt", load_backbone(config.backbone, frozen=True)
    ).vectors.numel() + 2 * (32 + 1)
    served = load_prompts([tmp_path / "out"])[0]
    test_set = load_examples(film_data / "test.jsonl")
    assert served.predict(test_set, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=5e-5)


def test_a_head_for_other_labels_is_refused(tmp_path: Path) -> None:
    from stages.common.models.linear_heads import LinearHead, load_head, save_head

    save_head(LinearHead(32, 2), ("rotten", "fresh"), tmp_path)
    assert load_head(tmp_path, 32, ("rotten", "fresh")) is not None
    for width, labels in ((16, ("rotten", "fresh")), (32, ("fresh", "rotten")), (32, ("a", "b", "c"))):
        with pytest.raises(InputError, match="the head in"):
            load_head(tmp_path, width, labels)
    assert load_head(tmp_path / "nothing", 32, ("a", "b")) is None
