"""Where a soft prompt starts. On small backbones the start decides: see the comparison that a pipeline's report
draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, model_validator

from stages.errors import InputError

if TYPE_CHECKING:
    import torch

    from stages.models.backbones import Backbone

Start = Literal["normal", "uniform", "zero", "vocabulary", "words", "mean"]


class StartConfig(BaseModel, frozen=True, extra="forbid"):
    """How the vectors of a new prompt are drawn."""

    kind: Start = Field("vocabulary", description="Kind of start; vocabulary draws embeddings of real tokens.")
    scale: float = Field(0.02, gt=0, description="Standard deviation of normal, half width of uniform.")
    words: str = Field("", description="Text whose token embeddings fill the prompt, repeated; for kind: words.")
    most_common: int = Field(5000, ge=1, description="vocabulary: draw among this many lowest token ids.")

    @model_validator(mode="after")
    def _words_given(self) -> StartConfig:
        if (self.kind == "words") != bool(self.words):
            raise ValueError("words and kind: words belong together. Give both, or neither.")
        return self


def start_vectors(
    config: StartConfig, num_vectors: int, backbone: Backbone, generator: torch.Generator
) -> torch.Tensor:
    """Draws [N, D] float32 start values for a prompt.

    Args:
        config: Kind and scale.
        num_vectors: N.
        backbone: The frozen model, whose input embeddings some kinds take.
        generator: CPU generator.

    Raises:
        InputError: kind words, and the words have no token.
    """
    import torch

    table = backbone.model.get_input_embeddings().weight.detach()
    shape = (num_vectors, table.shape[1])
    if config.kind == "normal":
        return torch.randn(shape, generator=generator) * config.scale
    if config.kind == "uniform":
        return (torch.rand(shape, generator=generator) * 2 - 1) * config.scale
    if config.kind == "zero":
        return torch.zeros(shape)
    if config.kind == "mean":
        return table.float().mean(dim=0).cpu().expand(shape).clone()
    if config.kind == "words":
        ids = backbone.tokenizer(config.words, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"words {config.words!r} have no token.", "Write words of the backbone's language.")
        chosen = [ids[index % len(ids)] for index in range(num_vectors)]
    else:
        special = set(backbone.tokenizer.all_special_ids)
        usual = [item for item in range(min(config.most_common, table.shape[0])) if item not in special]
        order = torch.randperm(len(usual), generator=generator).tolist()
        chosen = [usual[order[index % len(order)]] for index in range(num_vectors)]
    return table[chosen].float().cpu()
