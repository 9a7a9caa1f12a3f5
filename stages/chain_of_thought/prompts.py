"""What a model reads before it writes: demonstrations, the question, and the start of a rationale or of an answer."""

from __future__ import annotations

from typing import Any

from stages.chain_of_thought.config import ChainOfThoughtConfig, question_pattern
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.patterns.encoding import Encoder

SEPARATOR = "\n\n"
"""Text after each demonstration."""
Ids = tuple[int, ...]


class Prompts:
    """Writes prompts.

    As many whole demonstrations as the backbone has positions for: the first ones are left out. A text is never its
    own demonstration.

    Args:
        config: The method.
        tokenizer: The tokenizer of a causal model.
        max_positions: Maximum number of tokens that the model reads and writes; None without a limit.

    Raises:
        InputError: the model has too few positions.
    """

    def __init__(self, config: ChainOfThoughtConfig, tokenizer: Any, max_positions: int | None) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._encoder = Encoder(
            question_pattern(config.question), tokenizer, "causal", config.backbone.max_length, config.truncation
        )
        self._start = self._ids(f" {config.start}") if config.start else ()
        self._answer_trigger = self._ids(f" {config.answer_trigger.strip()}") if config.has_answer_pass else ()
        self._demonstrations = config.demonstrations[: config.num_demonstrations]
        self._blocks = [self._block(item.fields, item.rationale) for item in self._demonstrations]
        self._room = self._positions_left(max_positions)
        self.num_texts = self.num_read = 0
        """Texts so far, and the demonstrations before them."""

    def rationale_prompt(self, example: Example) -> Ids:
        """Returns the token ids before a rationale."""
        blocks = [
            block
            for item, block in zip(self._demonstrations, self._blocks, strict=True)
            if any(example.fields[name] != text for name, text in item.fields.items())
        ]
        while self._room is not None and sum(map(len, blocks)) > self._room:
            blocks.pop(0)
        self.num_texts += 1
        self.num_read += len(blocks)
        ids, num_special = self._encoder(example).ids, len(self._encoder.specials.before)
        return (*ids[:num_special], *(token for block in blocks for token in block), *ids[num_special:], *self._start)

    def answer_prompt(self, prompt: Ids, rationale: str) -> Ids:
        """Returns the token ids before an answer.

        Args:
            prompt: The ids before the rationale.
            rationale: What the model wrote.
        """
        written = self._ids(f" {rationale}") if rationale else ()
        return (*prompt, *written[: self._config.max_rationale_tokens], *self._answer_trigger)

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _block(self, fields: dict[str, str], rationale: str) -> Ids:
        """Returns the ids of a demonstration, without special tokens."""
        ids = self._encoder(Example("demonstration", fields)).ids[len(self._encoder.specials.before) :]
        return ids + self._ids(f" {rationale.strip()}{SEPARATOR}")

    def _positions_left(self, limit: int | None) -> int | None:
        """Returns how many tokens demonstrations can have; None without a limit."""
        if limit is None:
            return None
        config = self._config
        used = config.backbone.max_length + len(self._start) + config.max_rationale_tokens
        if config.has_answer_pass:
            used += len(self._answer_trigger) + config.max_answer_tokens
        shortest = min(map(len, self._blocks), default=0)
        if used + shortest > limit:
            demonstration = f" after a demonstration of {shortest} tokens" if shortest else ""
            raise InputError(
                f"question, rationale and answer have up to {used} tokens{demonstration}, more than the {limit} "
                "positions of the backbone.",
                "Lower max_rationale_tokens, or backbone.max_length.",
                key="max_rationale_tokens",
            )
        return limit - used
