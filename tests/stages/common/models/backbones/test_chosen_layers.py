"""Deep prompts of chosen layers, and of another length in each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.prefix_check import check_layers
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.protocols import NullRecorder
from stages.generation.model import TextGenerator
from tests.support.generation_data import TABLES, tables
from tests.support.small_models import backbone_config

TEXTS = ("The film is great.", "A dull plot, a terrible script and a hero")
CHOSEN = PromptConfig(method="p_tuning_v2", num_virtual_tokens=3, layers=(1,))
LENGTHS = PromptConfig(method="p_tuning_v2", layer_lengths=(1, 4))


def texts_of(backbone: Backbone) -> list[Encoded]:
    texts = [tuple(backbone.tokenizer(text)["input_ids"]) for text in TEXTS]
    return [Encoded(ids, (0,) * len(ids), len(ids) - 1) for ids in texts]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_layers_of_one_length_equal_a_cache(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    prompt = new_prompt(PromptConfig(method="p_tuning_v2", num_virtual_tokens=3), backbone, None, seed=1)
    assert prompt is not None
    cached = prompt([])
    with torch.no_grad():
        batch = backbone.batch(texts_of(backbone))
        expected = backbone.hidden_states(batch, cached)
        actual = backbone.hidden_states(batch, SoftInput(layers=cached.layers, lengths=(3, 3)))
    is_text = batch.attention_mask.bool()
    torch.testing.assert_close(actual[is_text], expected[is_text], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [(0, 3), (2, 1)])
def test_each_layer_of_bert_reads_its_own_length(lengths: tuple[int, int], backbones: dict[str, Backbone]) -> None:
    """Compares with attention computed here, in both layers of a BERT."""
    backbone = backbones["bert"]
    prefix = torch.randn(2, 2, 4, 3, 8, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    layers = [layer.attention.self for layer in backbone.model.bert.encoder.layer]
    hooks = [
        layer.register_forward_hook(lambda _, args, kwargs, out: seen.append((args[0], out[0])), with_kwargs=True)
        for layer in layers
    ]
    with torch.inference_mode():
        backbone.hidden_states(backbone.batch(texts_of(backbone)[:1]), SoftInput(layers=prefix, lengths=lengths))
        for hook in hooks:
            hook.remove()
        assert len(seen) == 2
        for layer, own, length, (states, actual) in zip(layers, prefix, lengths, seen, strict=True):
            q, k, v = (part(states[0]).view(-1, 4, 8).transpose(0, 1) for part in (layer.query, layer.key, layer.value))
            keys, values = torch.cat([own[0, :, :length], k], dim=1), torch.cat([own[1, :, :length], v], dim=1)
            expected = (q @ keys.transpose(1, 2) / 8**0.5).softmax(dim=-1) @ values
            torch.testing.assert_close(actual[0].flatten(-1), expected.transpose(0, 1).flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize(("config", "num_trained"), [(CHOSEN, 3), (LENGTHS, 5)], ids=["layers", "lengths"])
def test_only_values_that_are_read_are_trained_and_saved(
    name: str, config: PromptConfig, num_trained: int, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    backbone = backbones[name]
    prompt = new_prompt(config, backbone, None, seed=1)
    assert prompt is not None and prompt.layers is not None
    width = prompt.layers.layer_widths[0]
    assert sum(item.numel() for item in prompt.parameters()) == num_trained * width
    batch = backbone.batch(texts_of(backbone))
    backbone.vocabulary_logits(batch, prompt([])).square().sum().backward()
    (parameter,) = prompt.parameters()
    assert parameter.grad is not None and bool((parameter.grad != 0).float().mean() > 0.99)
    save_prompt(prompt, backbone, tmp_path / "prompt", "p_tuning_v2")
    loaded = load_prompt(tmp_path / "prompt", backbone)
    assert loaded([]).lengths == prompt([]).lengths
    with torch.no_grad():
        expected, actual = (backbone.vocabulary_logits(batch, item([])) for item in (prompt, loaded))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generated_texts_equal_those_without_a_cache(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    prompt = new_prompt(LENGTHS, backbone, TABLES.input_pattern, seed=1)
    assert prompt is not None
    for parameter in prompt.parameters():
        torch.nn.init.normal_(parameter, std=2.0, generator=torch.Generator().manual_seed(5))
    model = TextGenerator(TABLES.model_copy(update={"max_new_tokens": 6}), backbone, backbone_config(Path()), prompt)
    expected = []
    with torch.inference_mode():
        for example in tables(4):
            ids = list(model.encode(example).ids)
            written: list[int] = []
            while len(written) < 6:
                text = (*ids, *written)
                batch = backbone.batch([Encoded(text, (0,) * len(text), len(text) - 1)])
                token = int(backbone.vocabulary_logits(batch, prompt([]))[0].argmax())
                if token == backbone.tokenizer.eos_token_id:
                    break
                written.append(token)
            expected.append(model.text_of(written))
    assert len(set(expected)) > 1
    assert model.generate(tables(4), NullRecorder(), "") == expected


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"method": "prompt_tuning", "layers": [0]}, "layers is for vectors of layers"),
        ({"layers": [0, 0]}, "names a layer twice"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        ({"layers": [0], "layer_lengths": [1, 1]}, "layers and layer_lengths are both set"),
        ({"layer_lengths": [0, 0]}, "no layer has a vector"),
        ({"layer_lengths": [1, 1], "num_virtual_tokens": 3}, "layer_lengths and num_virtual_tokens are both set"),
        ({"layers": [0], "rank": 2}, "layers and rank are both set"),
    ],
)
def test_bad_layers_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PromptConfig.model_validate({"method": "p_tuning_v2", **settings})


def test_layers_that_a_backbone_lacks_are_refused(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    for name, settings, problem in (
        ("llama", {"layers": (2,)}, "there is no layer 2: the backbone has 2 layers"),
        ("bert", {"layer_lengths": (1, 2, 3)}, "there are 3 lengths, but the backbone has 2 layers"),
        ("t5", {"layers": (0,)}, "share one length"),
    ):
        config = PromptConfig.model_validate({"method": "p_tuning_v2", **settings})
        with pytest.raises(InputError, match=problem):
            new_prompt(config, backbones[name], None, seed=1)
    for name in ("llama", "gpt2"):
        backbones[name].model.config.save_pretrained(tmp_path / name)
        check_layers(tmp_path / name)
