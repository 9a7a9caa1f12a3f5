"""Checks that the backbone of chain of thought has positions for demonstrations, questions, rationales and answers."""

from __future__ import annotations

from typing import Any

from pipelines.schema.chain_of_thought_rules import method_config
from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import errors_located_in
from stages.chain_of_thought.prompts import Prompts
from stages.common.errors import InputError
from stages.common.models.backbones.folders import backbone_folder
from stages.common.models.traits_cache import folder_max_positions
from stages.common.patterns.config import Family


def check_chain_of_thought(config: PipelineConfig, family: Family, tokenizer: Any) -> None:
    """Checks that the backbone writes text, and counts the tokens of each method as its step does.

    Args:
        config: The recipe.
        family: Family of the backbone.
        tokenizer: Its tokenizer: a bare one of the tokenizers library, or one of transformers.

    Raises:
        InputError: the backbone is not causal, or has too few positions.
    """
    if config.chain_of_thought is None:
        return
    if family != "causal":
        raise InputError(
            f"chain of thought needs a causal model, which writes text, but the backbone is {family}.",
            "Use a causal backbone, or remove chain_of_thought.",
            key="chain_of_thought",
        )
    backbone = config.language_model
    limit = folder_max_positions(backbone_folder(backbone), trust_remote_code=backbone.trust_remote_code)
    readable = BareTokenizer(tokenizer) if hasattr(tokenizer, "encode_batch") else tokenizer
    for name in config.chain_of_thought.methods:
        with errors_located_in(f"chain_of_thought.methods.{name}"):
            Prompts(method_config(config, name), readable, limit)


class BareTokenizer:
    """A tokenizer of the tokenizers library that is called like one of transformers, whose import takes seconds."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.all_special_tokens = [
            item.content for item in tokenizer.get_added_tokens_decoder().values() if item.special
        ]

    def __call__(
        self, text: str, pair: str | None = None, *, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> _Tokens:
        """Encodes a text or a pair."""
        self._tokenizer.encode_special_tokens = split_special_tokens
        return _Tokens(self._tokenizer.encode(text, pair, add_special_tokens=add_special_tokens))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Returns the tokens with these ids."""
        return [self._tokenizer.id_to_token(number) for number in ids]


class _Tokens(dict[str, list[int]]):
    """Ids and segments, under the names of transformers."""

    def __init__(self, encoding: Any) -> None:
        super().__init__(input_ids=encoding.ids, token_type_ids=encoding.type_ids)
        self._encoding = encoding

    def sequence_ids(self) -> list[int | None]:
        """Returns the number of the text of each id, None for special tokens."""
        numbers: list[int | None] = self._encoding.sequence_ids
        return numbers
