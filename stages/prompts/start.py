"""Where a soft prompt starts. On small backbones the start decides: see the comparison that a pipeline's report
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, model_validator

from stages.errors import InputError
from stages.models.sharding import whole

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from stages.models.backbones import Backbone
    from stages.prompts.deep import Layers

Start = Literal["normal", "uniform", "zero", "vocabulary", "words", "label_words", "cls", "mean"]


class StartConfig(BaseModel, frozen=True, extra="forbid"):
    """How the vectors of a new prompt are drawn.

    Kinds that name tokens (vocabulary, words, label_words, cls) give a prompt their embeddings, and a deep prompt the
    keys and values that the backbone computes for them.
    """

    kind: Start = Field(
        "vocabulary",
        description="normal, uniform, zero, vocabulary (embeddings of real tokens), words, label_words (the task's), "
        "cls (the token that starts a text), mean (of all embeddings).",
    )
    scale: float = Field(0.02, gt=0, description="Standard deviation of normal, half width of uniform.")
    words: str = Field("", description="Text whose token embeddings fill the prompt, repeated; for kind: words.")
    most_common: int = Field(5000, ge=1, description="vocabulary: draw among this many lowest token ids.")

    @model_validator(mode="after")
    def _words_given(self) -> StartConfig:
        if (self.kind == "words") != bool(self.words):
            raise ValueError("words and kind: words belong together. Give both, or neither.")
        return self


def start_vectors(
    config: StartConfig,
    num_vectors: int,
    backbone: Backbone,
    generator: Generator,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Draws [N, D] float32 start values for a prompt of input vectors.

    Args:
        config: Kind and scale.
        num_vectors: N.
        backbone: The frozen model, whose input embeddings some kinds take.
        generator: CPU generator.
        label_words: Token ids of the task's label words, for that kind.

    Raises:
        InputError: the words have no token, or one that is not in the vocabulary.
    """
    if config.kind == "mean":
        with whole(backbone.model.get_input_embeddings().weight) as table:
            mean = table.detach().float().mean(dim=0).cpu()
        return mean.expand(num_vectors, len(mean)).clone()
    ids = start_ids(config, num_vectors, backbone, generator, label_words)
    if ids is None:
        return _drawn(config, (num_vectors, backbone.width), generator)
    return embeddings(backbone, ids)


def embeddings(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """[N, D] float32 input embeddings of tokens."""
    with whole(backbone.model.get_input_embeddings().weight) as table:
        return table.detach()[list(ids)].float().cpu()


def start_rows(
    config: StartConfig,
    num_places: int,
    backbone: Backbone,
    layers: Layers,
    generator: Generator,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Draws [P, W] float32 start values for a deep prompt; arguments and errors as in `start_vectors`."""
    from stages.prompts.deep import activations

    ids = start_ids(config, num_places, backbone, generator, label_words)
    if ids is None:
        return _drawn(config, (num_places, layers.width), generator)
    return activations(backbone, layers, ids)


def start_ids(
    config: StartConfig, count: int, backbone: Backbone, generator: Generator, label_words: Sequence[int]
) -> list[int] | None:
    """`count` token ids to start from; None for kinds that take no tokens."""
    import torch

    tokenizer = backbone.tokenizer
    if config.kind == "vocabulary":
        special = set(tokenizer.all_special_ids)
        size = backbone.model.get_input_embeddings().num_embeddings
        usual = [item for item in range(min(config.most_common, size)) if item not in special]
        order = torch.randperm(len(usual), generator=generator).tolist()
        return [usual[order[index % len(order)]] for index in range(count)]
    if config.kind == "words":
        ids = word_ids(config.words, tokenizer)
    elif config.kind == "label_words":
        ids = list(label_words)
        if not ids:
            raise InputError("the task has no label words to start from.", "Take another kind of start.", key="start")
    elif config.kind == "cls":
        named = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        ids = [next(item for item in named if item is not None)]
    else:
        return None
    return [ids[index % len(ids)] for index in range(count)]


def word_ids(words: str, tokenizer: object) -> list[int]:
    """Token ids of the words that a prompt or a soft block starts from.

    Raises:
        InputError: the words have no token, or one that is not in the vocabulary.
    """
    ids: list[int] = tokenizer(words, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    if not ids:
        raise InputError(f"words {words!r} have no token.", "Write words of the backbone's language.")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids and unknown != getattr(tokenizer, "eos_token_id", None):
        raise InputError(
            f"words {words!r} are not all in the backbone's vocabulary.", "Write words of the backbone's language."
        )
    return ids


def _drawn(config: StartConfig, shape: tuple[int, int], generator: Generator) -> Tensor:
    import torch

    if config.kind == "normal":
        return torch.randn(shape, generator=generator) * config.scale
    if config.kind == "uniform":
        return (torch.rand(shape, generator=generator) * 2 - 1) * config.scale
    return torch.zeros(shape)
