"""Writes the text of a new recipe: complete, with comments, in the style of the demo recipe.

Default patterns and label words for a new task, derived from the names of its labels.

The user can replace all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from pipelines.init.labeled_file import LabeledData
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.errors import DataError, VerbalizerError
from stages.common.patterns.config import Family
from stages.common.patterns.verbalizers import Verbalizer

COMMENT_COLUMN = 32
MAX_SHOTS, MAX_TEST, MAX_UNLABELED = 16, 500, 1000
"""The sizes of the demo. Smaller files get smaller splits."""
STUDENT_STEPS = (50, 200)
BASELINE_STEPS = 50


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the splits."""

    shots: int
    """Labeled examples per class."""
    unlabeled: int
    """Unlabeled examples; 0: all rows without a label."""
    test: int
    """Test examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDraft:
    """The variable parts of a new recipe."""

    name: str
    path: str
    data: LabeledData
    patterns: Mapping[str, str]
    words: Mapping[str, Sequence[str]]
    sizes: Sizes
    backbone: str
    student: str
    max_length: int
    """Tokens."""
    targets: Sequence[str] | None
    """Layers that get adapters; None: all linear layers."""
    seed: int = 42


def choose_split_sizes(data: LabeledData, shots: int | None, test: int | None) -> Sizes:
    """Chooses split sizes that a file has enough rows for.

    The sizes are those of the demo at most. The test set gets a quarter of the file at most, and at least a third of
    the rest stays unlabeled.

    Args:
        data: The file.
        shots: Labeled examples per class, if set.
        test: Test examples, if set.

    Raises:
        DataError: the given sizes leave no unlabeled text.
    """
    total, num_classes = data.total, len(data.labels)
    test_size = min(MAX_TEST, max(1, total // 4)) if test is None else test
    if shots is None:
        # The test set is drawn first, from all classes together, so it may take more than its share of a class.
        num_left = 0.8 * min(data.counts.values()) * max(0, 1 - test_size / total)
        shots = max(1, min(MAX_SHOTS, int(num_left), (total - test_size) * 2 // (3 * num_classes)))
    num_unlabeled = total - test_size - shots * num_classes
    if has_own_unlabeled_set(data):
        return Sizes(shots, 0, test_size)
    if num_unlabeled < 1:
        raise DataError(
            f"{total} different texts are too few for {test_size} test examples and {shots} examples of each of "
            f"{num_classes} labels: no unlabeled data is left.",
            "Lower --test-size or --shots, or add rows, with or without a label.",
        )
    return Sizes(shots, min(MAX_UNLABELED, num_unlabeled), test_size)


def has_own_unlabeled_set(data: LabeledData) -> bool:
    """Returns True if the rows without a label become the unlabeled set, because there are enough of them."""
    return data.num_unlabeled > max(data.total // 2, 1)


def smaller_sizes(sizes: Sizes, shots: int | None, test: int | None) -> tuple[int | None, int | None] | None:
    """Returns the next shots and test size to try if a class has too few texts; None if both are fixed or minimal."""
    if shots is None and sizes.shots > 1:
        return sizes.shots - 1, test
    if test is None and sizes.test > 1:
        return sizes.shots, sizes.test * 3 // 4
    return None


def parse_recipe(text: str) -> PipelineConfig:
    """Parses the text of a recipe, as `clozeline run` will."""
    return load_config(yaml.safe_load(text))


def recipe_text(draft: RecipeDraft) -> str:
    """Returns the recipe as YAML."""
    num_labeled = draft.sizes.shots * len(draft.data.labels)
    num_unlabeled = draft.sizes.unlabeled or draft.data.num_unlabeled
    steps = max(STUDENT_STEPS[0], min(STUDENT_STEPS[1], num_unlabeled // 5))
    targets = f", targets: {_flow(draft.targets)}" if draft.targets else ""
    num_baseline = max(BASELINE_STEPS, num_labeled * 12 // 8)
    return "\n".join(
        [
            f"# {num_labeled} labeled and {num_unlabeled:,} unlabeled examples -> a small classifier.",
            "# Written by clozeline init. docs/reference/recipe.md describes all keys.",
            f"# Check it with `clozeline plan {draft.path}`, run it with `clozeline run {draft.path}`.",
            f"name: {_flow(draft.name)}",
            f"seed: {draft.seed}",
            "",
            *_task(draft),
            "",
            *_data(draft),
            "",
            "backbone:",
            f"  asset: {_block(draft.backbone)}",
            _with(f"  max_length: {draft.max_length}", "tokens of an example with its pattern"),
            "",
            _with("students:", "encoders of the classifier; several sizes are possible"),
            "  small:",
            f"    asset: {_block(draft.student)}",
            f"    max_length: {draft.max_length}",
            "",
            _with("pet:", "trains a sub-model per pattern and seed"),
            "  seeds: [0]",
            _with("  tune: lora", "adapters: megabytes per sub-model"),
            f"  lora: {{rank: 8, alpha: 16{targets}}}",
            "  training: {learning_rate: 0.001, batch_size: 8, epochs: 6}",
            "",
            _with("ensemble:", "all sub-models label the unlabeled data"),
            "  weights: uniform",
            "",
            _with("distill:", "trains the student on these soft labels"),
            "  seeds: [0, 1, 2]",
            "  temperature: 2.0",
            f"  training: {{learning_rate: 5.0e-5, batch_size: 16, steps: {steps}, warmup_ratio: 0.1}}",
            "",
            _with("baseline:", "for comparison: the student on labeled data only"),
            "  seeds: [0, 1, 2]",
            f"  training: {{learning_rate: 5.0e-5, batch_size: 8, steps: {num_baseline}, warmup_ratio: 0.1}}",
            "",
            "# For soft prompts add the sections ppt and prompts: see docs/how-to/prompts.md and the recipe demo.",
            "",
        ]
    )


def _task(draft: RecipeDraft) -> list[str]:
    lines = ["task:", f"  name: {_flow(draft.name)}", f"  labels: {_flow(draft.data.labels)}"]
    lines.append(_with("  patterns:", "cloze templates; {mask} is replaced by a label word"))
    lines += [f"    {name}: {_quoted(text)}" for name, text in draft.patterns.items()]
    lines.append(_with("  verbalizer:", "label -> label words; the scores of several words are averaged"))
    return lines + [f"    {_flow(label)}: {_flow(words)}" for label, words in draft.words.items()]


def _data(draft: RecipeDraft) -> list[str]:
    data, sizes = draft.data, draft.sizes
    rarest = f"{data.total:,} different labeled texts, {min(data.counts.values()):,} of the rarest label"
    lines = [
        "data:",
        _with("  pool:", f"{rarest}; the splits share no text"),
        *_source(draft),
        f"    label: {_flow(data.label)}",
    ]
    if data.label_map:
        lines.append(f"    label_map: {_flow(dict(data.label_map))}")
    if data.unlabeled:
        lines.append(f"    filter: {_flow({data.label: sorted({*data.labels, *data.label_map})})}")
    if data.num_empty:
        lines.append(_with("    drop_empty: true", f"{data.num_empty:,} rows have no text"))
    if not sizes.unlabeled:
        lines.append(_with("  unlabeled:", f"the {data.num_unlabeled:,} rows without a label"))
        lines += [*_source(draft), f"    filter: {_flow({data.label: list(data.unlabeled)})}"]
        lines += ["    drop_empty: true"] if data.num_empty else []
    lines.append(_with(f"  shots: {sizes.shots}", "labeled examples per class"))
    if sizes.unlabeled:
        lines.append(f"  unlabeled_size: {sizes.unlabeled}")
    return [*lines, f"  test_size: {sizes.test}"]


def _source(draft: RecipeDraft) -> list[str]:
    return [f"    asset: {_block(draft.data.asset)}", f"    fields: {_flow(dict(draft.data.fields))}"]


def _with(line: str, comment: str) -> str:
    return f"{line:<{COMMENT_COLUMN}} # {comment}"


def _flow(value: Any) -> str:
    """Returns a value on one line, quoted if YAML needs it."""
    plain = list(value) if isinstance(value, tuple) else value
    dumped = yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return dumped.strip()[1:-1]


def _block(text: str) -> str:
    """Returns a text for its own line, where a colon needs no quotes."""
    return yaml.safe_dump({"asset": text}, allow_unicode=True, width=float("inf")).strip().removeprefix("asset: ")


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).strip()


Kind = Literal["topic", "sentiment", "rating"]
SHORT = {"pos": "positive", "neg": "negative", "neu": "neutral"}
SENTIMENT = {
    *SHORT, *SHORT.values(), "good", "bad", "great", "terrible", "fresh", "rotten", "mixed", "happy", "unhappy",
    "very positive", "very negative", "very good", "very bad", "excellent", "poor", "okay", "ok",
}  # fmt: skip
RATING_COLUMNS = {"rating", "ratings", "stars", "star"}
RATING_WORDS = ("terrible", "bad", "okay", "good", "great")
"""Words for one to five stars, as in PET for Yelp."""
STOP = {"and", "or", "of", "the", "a", "an", "in", "on", "to", "for", "with", "other", "misc", "non", "not", "no"}
# For causal models, which predict the word after the text.
PATTERNS: dict[Kind, dict[str, str]] = {
    "topic": {
        "topic": "{text}\nTopic:{mask}",
        "about": "{text}\nThis text is about{mask}",
        "category": "Text: {text}\nCategory:{mask}",
    },
    "sentiment": {
        "sentiment": "Text: {text}\nSentiment:{mask}",
        "opinion": "{text}\nThe overall opinion is{mask}",
        "tone": "{text}\nThe tone of this text is{mask}",
    },
    "rating": {
        "summary": "{text}\nIn summary, it is{mask}",
        "all": "{text}\nAll in all, it was{mask}",
        "verdict": "Review: {text}\nVerdict:{mask}",
    },
}


def kind_of(labels: Sequence[str], column: str) -> Kind:
    """Returns the kind of task that the labels suggest."""
    if column.casefold() in RATING_COLUMNS and set(labels) <= set("12345"):
        return "rating"
    return "sentiment" if all(clean(label).casefold() in SENTIMENT for label in labels) else "topic"


def default_patterns(kind: Kind, family: Family) -> dict[str, str]:
    """Returns name -> pattern for a family of models."""
    if family == "causal":
        return dict(PATTERNS[kind])
    return {name: text.replace("\n", " ").replace("{mask}", " {mask}.") for name, text in PATTERNS[kind].items()}


def clean(label: str) -> str:
    """Splits a label into words: `Sci/Tech` becomes `Sci Tech`, `sci_tech` becomes `sci tech`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(re.sub(r"[\W_]+", " ", spaced).split())


def label_words(labels: Sequence[str], kind: Kind, tokenizer: Any, family: Family) -> dict[str, list[str]]:
    """Returns label -> words of its name that the backbone knows. The list is empty if it knows none.

    Prefers words of one token: the full name, else the parts of the name that no other label has. Otherwise uses the
    full name as several tokens.
    """
    if kind == "rating":
        return {label: [RATING_WORDS[int(label) - 1]] for label in labels}
    names = {label: _name(label) for label in labels}
    parts = {label: [part for part in name.split() if part.casefold() not in STOP] for label, name in names.items()}
    words = {}
    for label, name in names.items():
        others = {part.casefold() for other in labels if other != label for part in parts[other]}
        own = [part for part in parts[label] if part.casefold() not in others]
        cases = [name.casefold(), name]
        short = [item for item in cases if num_tokens(item, tokenizer, family) == 1][:1]
        short = short or [item.casefold() for item in own if num_tokens(item.casefold(), tokenizer, family) == 1]
        long = [item for item in cases if num_tokens(item, tokenizer, family) > 1][:1]
        words[label] = [] if name.isdecimal() else short or long
    return words


def num_tokens(word: str, tokenizer: Any, family: Family) -> int:
    """Returns the number of tokens of a word; 0 if the backbone does not know it."""
    try:
        return Verbalizer.of({"": [word]}, tokenizer, family).longest
    except VerbalizerError:
        return 0


def _name(label: str) -> str:
    name = clean(label)
    return SHORT.get(name.casefold(), name)
