"""Tests of generation: equal to a computation token by token, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM, OPTConfig, OPTForCausalLM

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.text_generation import GREEDY, Continuation, Generator, Sampling, TextStart, end_ids_of
from stages.common.seeds import torch_rng
from tests.support.small_models import backbone_config, gpt2_tokenizer

TEXTS = ("Review:", "The film is a warm and clever story", "It was", "A dull plot, a terrible script and a hero", "bad")
NUM_TOKENS = 12
SAMPLINGS = (
    None,
    Sampling(temperature=0.7),
    Sampling(temperature=1.5, top_k=5),
    Sampling(temperature=1.0, top_p=0.6),
    Sampling(temperature=2.0, top_k=9, top_p=0.9),
)


def prompts_of(backbone: Backbone, sampling: Sampling | None) -> list[TextStart]:
    ids = [tuple(backbone.tokenizer(text)["input_ids"]) for text in TEXTS]
    return [
        TextStart.of_ids(
            item, torch.rand(NUM_TOKENS, generator=torch_rng(3, row), dtype=torch.float64) if sampling else None
        )
        for row, item in enumerate(ids)
    ]


def by_hand(backbone: Backbone, prompt: TextStart, sampling: Sampling | None) -> tuple[int, ...]:
    """Returns the new tokens of one text: a whole pass without padding and cache for each."""
    ids = list(prompt.encoded.ids)
    for number in range(NUM_TOKENS):
        with torch.inference_mode():
            logits = backbone.model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        random = 0.0 if prompt.randoms is None else float(prompt.randoms[number])
        token = int(logits.argmax()) if sampling is None else draw(logits, sampling, random)
        if token == backbone.tokenizer.eos_token_id:
            break
        ids.append(token)
    return tuple(ids[len(prompt.encoded.ids) :])


def draw(logits: np.ndarray, sampling: Sampling, random: float) -> int:
    """Returns the token at a quantile of the distribution, from the most to the least probable token."""
    probabilities = np.exp(logits / sampling.temperature - (logits / sampling.temperature).max())
    order = [int(token) for token in np.argsort(-probabilities, kind="stable")][: sampling.top_k]
    total = sum(probabilities[token] for token in order)
    kept: dict[int, float] = {}
    for token in order:
        if sum(kept.values()) >= (sampling.top_p or 1.0):
            break
        kept[token] = probabilities[token] / total
    threshold, reached = random * sum(kept.values()), 0.0
    for token, probability in kept.items():
        reached += probability
        if reached > threshold:
            return token
    return token


def generate(
    backbone: Backbone, prompts: Sequence[TextStart], sampling: Sampling | None, **more: Any
) -> list[Continuation]:
    generator = Generator(backbone, more.pop("engine", InProcessEngine()), end_ids=end_ids_of(backbone))
    return generator(prompts, NUM_TOKENS, lambda done, total: None, decoding=sampling or GREEDY, **more)


@pytest.fixture
def small_batches(backbones: dict[str, Backbone]) -> Iterator[None]:
    """Makes the batches of the models as small as possible."""
    before = {name: backbone.eval_batch_tokens for name, backbone in backbones.items()}
    for backbone in backbones.values():
        backbone.eval_batch_tokens = 1
    yield
    for name, backbone in backbones.items():
        backbone.eval_batch_tokens = before[name]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_texts_of_a_batch_are_those_of_a_computation_token_by_token(
    name: str, sampling: Sampling | None, backbones: dict[str, Backbone]
) -> None:
    backbone = backbones[name]
    prompts = prompts_of(backbone, sampling)
    written = generate(backbone, prompts, sampling)
    expected = [by_hand(backbone, prompt, sampling) for prompt in prompts]
    assert [item.ids for item in written] == expected
    assert [item.is_cut for item in written] == [len(item) == NUM_TOKENS for item in expected]
    assert len(set(expected)) == len(TEXTS)


OTHERS = {
    "opt": lambda size: OPTForCausalLM(
        OPTConfig(
            vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
            max_position_embeddings=160, word_embed_proj_dim=32, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        )
    ),
    "bloom": lambda size: BloomForCausalLM(
        BloomConfig(vocab_size=size, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    ),
    "mamba": lambda size: MambaForCausalLM(
        MambaConfig(
            vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=4, bos_token_id=0, eos_token_id=0,
            pad_token_id=0,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_positions_and_states_of_other_architectures_ignore_padding(
    name: str, sampling: Sampling | None, tmp_path: Path
) -> None:
    tokenizer = gpt2_tokenizer()
    torch.manual_seed(5)
    model = OTHERS[name](len(tokenizer))
    with torch.no_grad():
        for title, weight in model.named_parameters():
            if weight.ndim == 2 and "A_log" not in title:
                weight.normal_(0, 0.3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(backbone_config(tmp_path), frozen=True)
    prompts = prompts_of(backbone, sampling)
    expected = [by_hand(backbone, prompt, sampling) for prompt in prompts]
    assert [item.ids for item in generate(backbone, prompts, sampling)] == expected


@pytest.mark.usefixtures("small_batches")
def test_size_of_batches_changes_nothing(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    prompts = prompts_of(backbone, SAMPLINGS[1])
    alone = generate(backbone, prompts, SAMPLINGS[1])
    backbone.eval_batch_tokens = 4096
    assert generate(backbone, prompts, SAMPLINGS[1]) == alone
    assert generate(backbone, prompts[::-1], SAMPLINGS[1]) == alone[::-1]


class Worker(InProcessEngine):
    """One of two workers, which keeps its part of each sum."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, 2
        self.parts: list[torch.Tensor] = []

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.parts.append(tensor)
        return tensor


@pytest.mark.usefixtures("small_batches")
def test_workers_share_the_batches(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    prompts = prompts_of(backbone, SAMPLINGS[1])
    workers = [Worker(0), Worker(1)]
    for worker in workers:
        generate(backbone, prompts, SAMPLINGS[1], engine=worker)
    whole = Worker(0)
    whole.world_size = 1
    generate(backbone, prompts, SAMPLINGS[1], engine=whole)
    for first, second, expected in zip(workers[0].parts, workers[1].parts, whole.parts, strict=True):
        assert torch.equal(first + second, expected)
    is_empty = [(part == 0).all(dim=1) for part in (workers[0].parts[0], workers[1].parts[0])]
    assert [int(item.sum()) for item in is_empty] == [2, 3], "each text is written once"


def test_text_that_ends_a_continuation_is_its_last_part(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    decode = backbone.tokenizer.decode
    prompts = prompts_of(backbone, None)
    plain = generate(backbone, prompts, None)
    texts = [decode([token]) for token in plain[1].ids[1:]]
    stop = next(text for text in texts if text.isascii() and text.strip())
    for before, after in zip(plain, generate(backbone, prompts, None, stop=(stop,)), strict=True):
        ends = [count for count in range(1, len(before.ids) + 1) if stop in decode(before.ids[:count])]
        assert after == (Continuation(before.ids[: ends[0]], False) if ends else before)


def test_settings_in_the_folder_of_a_model_change_nothing(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    prompts = prompts_of(backbone, None)
    plain = generate(backbone, prompts, None)
    settings = backbone.model.generation_config
    own = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 3.0, "no_repeat_ngram_size": 1}
    before = {name: getattr(settings, name) for name in own}
    for name, value in own.items():
        setattr(settings, name, value)
    try:
        assert generate(backbone, prompts, None) == plain
        assert backbone.model.generation_config is settings
        assert settings.repetition_penalty == 9.0
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def test_several_tokens_can_end_a_text(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    prompts = prompts_of(backbone, None)
    plain = generate(backbone, prompts, None)
    settings = backbone.model.generation_config
    before, settings.eos_token_id = settings.eos_token_id, [plain[0].ids[2], 1]
    try:
        written = generate(backbone, prompts, None)
    finally:
        settings.eos_token_id = before
    end = plain[0].ids.index(plain[0].ids[2])
    assert written[0] == Continuation(plain[0].ids[:end], False)


def test_model_that_cannot_generate_is_rejected(backbones: dict[str, Backbone]) -> None:
    class Other:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(InputError, match="Linear does not support generation") as caught:
        Generator(Other(), InProcessEngine())
    assert caught.value.key == "backbone.asset"
