"""The choices of PET that the user can make: the language model, patterns and label words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.markup import escape

from pipelines.default_models import QWEN_CODER, SMOLLM2, ModelAsset
from pipelines.init import label_words
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
from stages.common.models.model_files import family_of, model_folder
from stages.common.models.traits_cache import folder_max_positions
from stages.common.patterns.config import Family, Task
from stages.common.patterns.verbalizers import Verbalizer

NONE = "none"
"""Answer that leaves out the language model."""
DEFAULT_BACKBONES = {model.hub: model for model in (SMOLLM2, QWEN_CODER)}
"""Name on the hub -> language model. Both are causal."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A language model: its config, family and bare tokenizer."""

    config: BackboneConfig
    family: Family
    tokenizer: Any

    @classmethod
    def load(cls, terminal: Interaction, ref: str) -> Backbone:
        """Downloads the model if necessary.

        Raises:
            InputError: the model is unreachable or is not a language model.
        """
        config = BackboneConfig(asset=ref)
        with with_flag_hint(), terminal.progress(terminal.console) as on_start:
            fetch({"backbone.asset": config.asset}, on_start)
            try:
                return cls(config, family_of(model_folder(config.asset)), models.bare_tokenizer(config))
            except InputError as error:
                raise error.at(key="backbone.asset") from error

    def with_max_length(self, task: Task, examples: Sequence[Example]) -> Backbone:
        """Returns the backbone with a `max_length` that fits most texts, within its positions."""
        length = MAX_LENGTH // 2
        if hasattr(self.tokenizer, "encode_batch"):  # tokenizers of transformers have another interface
            length = -(-covering_length(task, examples, self.tokenizer) // 8) * 8
        length = min(MAX_LENGTH, max(MIN_LENGTH, length))
        num_positions = folder_max_positions(model_folder(self.config.asset))
        return replace(self, config=self.config.model_copy(update={"max_length": min(length, num_positions or length)}))

    def num_readings(self, task: Task) -> float:
        """Returns how often a text is read per pattern: once, or once per label word if a word has several tokens or
        if a causal model reads text after the mask.
        """
        total = 0
        for pattern in task.patterns:
            words = [word for item in task.words(pattern).values() for word in item]
            is_long = max(label_words.num_tokens(word, self.tokenizer, self.family) for word in words) > 1
            has_suffix = self.family == "causal" and not task.pattern(pattern).ends_in_mask
            total += len(words) if is_long or has_suffix else 1
        return total / len(task.patterns)

    def are_valid(self, words: Mapping[str, Sequence[str]]) -> bool:
        """Returns True if the vocabulary has the words of all labels, and no two labels have the same."""
        if not words or not all(words.values()):
            return False
        try:
            Verbalizer.of({label: list(item) for label, item in words.items()}, self.tokenizer)
        except VerbalizerError:
            return False
        return True


def choose_backbone(terminal: Interaction, flag: str | None, default: ModelAsset, assets: Assets) -> str | None:
    """Returns the reference of the language model; None: the recipe has no PET.

    A default model is downloaded later, if the budget has time for it.

    Raises:
        InputError: the model is unreachable or is not a language model.
    """

    def parse(ref: str) -> str | None:
        if ref == NONE:
            return None
        if ref in DEFAULT_BACKBONES:
            return reference(DEFAULT_BACKBONES[ref], assets)
        return Backbone.load(terminal, ref).config.asset

    question = "Language model (a folder, a GGUF file, an asset reference, or none)"
    return terminal.ask_or_default(question, flag, default.hub, parse)


def family_of_backbone(ref: str | None) -> Family:
    """Returns the family of a chosen language model, for which no default model is downloaded."""
    defaults = {item for model in DEFAULT_BACKBONES.values() for item in (model.asset, model.hub_asset)}
    return "causal" if ref is None or ref in defaults else family_of(model_folder(ref))


def choose_patterns(
    terminal: Interaction,
    flags: Sequence[str],
    proposed: Mapping[str, str],
    fields: Sequence[str],
    family: Family,
) -> dict[str, str]:
    """Returns name -> pattern, as the user sets them; empty if the labeled examples decide.

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
        return {}
    terminal.console.print("Proposed patterns:", highlight=False)
    for name, text in proposed.items():
        terminal.console.print(escape(f"  {name}={on_one_line(text)}"), highlight=False, soft_wrap=True)
    patterns: dict[str, str] = {}
    while True:
        question = (
            "Another pattern (Enter: no more)" if patterns else "Enter uses the best of these, or write NAME=TEXT"
        )
        answer = terminal.ask_or_default(question, None, "", lambda item: parse(item) if item else None)
        if answer is None:
            return patterns
        patterns[answer[0]] = answer[1]


def choose_label_words(
    terminal: Interaction, flags: Sequence[str], names: Mapping[str, Sequence[str]], backbone: Backbone
) -> dict[str, list[str]]:
    """Returns label -> label words, as the user sets them; empty if the labeled examples decide.

    Args:
        terminal: The terminal.
        flags: Words as `LABEL=WORD,WORD` that the user has set.
        names: Label -> words of its name, for labels that the user does not set; may be empty.
        backbone: The language model.

    Raises:
        VerbalizerError: words of a flag are not valid, or flags set the words of some labels, and others have none.
    """
    flagged = words_by_label(flags, list(names))
    if not flagged and terminal.ask is None:
        return {}
    verbalizer: dict[str, list[str]] = {}
    for label, default in names.items():

        def parse(item: str, label: str = label) -> list[str]:
            if not item and not names[label]:
                return []
            parsed = parse_words(item, label)
            others = {name: words for name, words in verbalizer.items() if words}
            with with_flag_hint(label):
                Verbalizer.of({**others, label: parsed}, backbone.tokenizer)
            return parsed

        question = f"Words for {label}" if default else f"Words for {label} (Enter: search in the labeled examples)"
        verbalizer[label] = terminal.ask_or_default(question, flagged.get(label), ",".join(default), parse)
    if not flagged and all(verbalizer[label] == list(default) for label, default in names.items()):
        return {}
    for label, words in verbalizer.items():
        if not words:
            raise VerbalizerError(
                f"the name of the label {label!r} yields no label words.", f"Add some: {label_words_flag(label)}."
            )
    return verbalizer


def on_one_line(text: str) -> str:
    """Returns a pattern as it is written in a flag."""
    return text.replace("\n", "\\n")
