"""The choices of PET in a new recipe: the language model, its patterns and label words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.markup import escape

from pipelines.init import patterns as defaults
from pipelines.init.assets import SMOLLM2, ModelAsset
from pipelines.init.default_recipe import Assets, reference
from pipelines.init.flags import label_words_flag, parse_pattern, parse_words, with_flag_hint, words_by_label
from pipelines.init.interaction import Interaction
from pipelines.init.recommendations import covering_length
from pipelines.init.text_lengths import MAX_LENGTH, MIN_LENGTH
from pipelines.preflight import models
from pipelines.preflight.checks import fetch
from stages.common.errors import InputError, PatternError, VerbalizerError
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import family_of, max_positions, model_folder
from stages.common.patterns.config import Family, Task
from stages.common.patterns.verbalizers import Verbalizer

NONE = "none"
"""Answer that leaves out the language model."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A language model: its config, family and bare tokenizer."""

    config: BackboneConfig
    family: Family
    tokenizer: Any

    def with_max_length(self, task: Task, examples: Sequence[Example]) -> Backbone:
        """Returns the backbone with a `max_length` that fits most texts, within its positions."""
        length = MAX_LENGTH // 2
        if hasattr(self.tokenizer, "encode_batch"):  # tokenizers of transformers have another interface
            length = -(-covering_length(task, examples, self.tokenizer) // 8) * 8
        length = min(MAX_LENGTH, max(MIN_LENGTH, length))
        num_positions = max_positions(model_folder(self.config.asset))
        return replace(self, config=self.config.model_copy(update={"max_length": min(length, num_positions or length)}))

    def label_tokens(self, words: Mapping[str, Sequence[str]]) -> int:
        """Returns the tokens of all label words if any word has several, else 0."""
        counts = [defaults.num_tokens(word, self.tokenizer, self.family) for item in words.values() for word in item]
        return sum(counts) if max(counts) > 1 else 0


def choose_backbone(
    terminal: Interaction, flag: str | None, default: ModelAsset | None, assets: Assets
) -> Backbone | None:
    """Returns the language model; None: the recipe has no PET.

    Raises:
        InputError: the model is unreachable or is not a language model.
    """

    def parse(ref: str) -> Backbone | None:
        if ref == NONE:
            return None
        config = BackboneConfig(asset=reference(SMOLLM2, assets) if ref == SMOLLM2.hub else ref)
        with with_flag_hint(), terminal.progress(terminal.console) as on_start:
            fetch({"backbone.asset": config.asset}, on_start)
            try:
                return Backbone(config, family_of(model_folder(config.asset)), models.bare_tokenizer(config))
            except InputError as error:
                raise error.at(key="backbone.asset") from error

    question = "Language model (a folder, a GGUF file, an asset reference, or none)"
    return terminal.ask_or_default(question, flag, default.hub if default else NONE, parse)


def choose_patterns(
    terminal: Interaction,
    flags: Sequence[str],
    proposed: Mapping[str, str],
    fields: Sequence[str],
    family: Family,
) -> dict[str, str]:
    """Returns name -> pattern.

    Args:
        terminal: The terminal.
        flags: Patterns as `NAME=TEXT` that the user has set.
        proposed: The default patterns.
        fields: Fields that a pattern can use.
        family: Family of the language model.

    Raises:
        PatternError: a pattern of a flag is not valid, or is given twice.
    """

    def parse(item: str) -> tuple[str, str]:
        return parse_pattern(item, fields, family)

    if flags:
        given = [parse(item) for item in flags]
        repeated = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
        if repeated:
            raise PatternError(f"the pattern {repeated[0]!r} is given twice.", "Keep one: --pattern NAME=TEXT.")
        return dict(given)
    if terminal.ask is None:
        return dict(proposed)
    terminal.console.print("Proposed patterns:", highlight=False)
    for name, text in proposed.items():
        terminal.console.print(escape(f"  {name}={on_one_line(text)}"), highlight=False, soft_wrap=True)
    patterns: dict[str, str] = {}
    while True:
        question = "Another pattern (Enter: no more)" if patterns else "Enter uses these, or write NAME=TEXT"
        answer = terminal.ask_or_default(question, None, "", lambda item: parse(item) if item else None)
        if answer is None:
            return patterns or dict(proposed)
        patterns[answer[0]] = answer[1]


def choose_label_words(
    terminal: Interaction, flags: Sequence[str], proposed: Mapping[str, Sequence[str]], backbone: Backbone
) -> dict[str, list[str]]:
    """Returns label -> label words. They are empty if no flag sets any and the names of the labels are no words.

    Args:
        terminal: The terminal.
        flags: Words as `LABEL=WORD,WORD` that the user has set.
        proposed: Label -> default words; no words if the name of the label has none.
        backbone: The language model.

    Raises:
        VerbalizerError: words of a flag are not valid, or flags set the words of some labels, and others have none.
    """
    words = words_by_label(flags, list(proposed))
    if not words and terminal.ask is None and not _are_valid(proposed, backbone):
        return {}
    verbalizer: dict[str, list[str]] = {}
    for label, default in proposed.items():

        def parse(item: str, label: str = label) -> list[str]:
            parsed = parse_words(item, label)
            with with_flag_hint(label):
                Verbalizer.of({**verbalizer, label: parsed}, backbone.tokenizer, backbone.family)
            return parsed

        missing = VerbalizerError(
            f"the name of the label {label!r} yields no label words.", f"Add some: {label_words_flag(label)}."
        )
        verbalizer[label] = terminal.ask_or_default(
            f"Words for {label}", words.get(label), ",".join(default) or None, parse, missing
        )
    return verbalizer


def on_one_line(text: str) -> str:
    """Returns a pattern as it is written in a flag."""
    return text.replace("\n", "\\n")


def _are_valid(words: Mapping[str, Sequence[str]], backbone: Backbone) -> bool:
    if not all(words.values()):
        return False
    try:
        Verbalizer.of({label: list(item) for label, item in words.items()}, backbone.tokenizer, backbone.family)
    except VerbalizerError:
        return False
    return True
