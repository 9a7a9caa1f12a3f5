"""Writes the text of a new recipe: complete, with comments, in the form of the demo recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.init.labeled_file import LabeledData
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.errors import DataError

COMMENT_COLUMN = 32
MAX_SHOTS, MAX_TEST, MAX_UNLABELED = 16, 500, 1000
"""The sizes of the demo; smaller files are shared out."""
STUDENT_STEPS = (50, 200)
BASELINE_STEPS = 50


@dataclass(frozen=True, slots=True)
class Sizes:
    """Labelled examples a class, unlabelled ones (0: the rows without a label), test examples."""

    shots: int
    unlabeled: int
    test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDraft:
    """All that a new recipe says of its own. `max_length` in tokens; `targets`: layers that
    get adapters, None for every linear one.
    """

    name: str
    path: str
    data: LabeledData
    patterns: Mapping[str, str]
    words: Mapping[str, Sequence[str]]
    sizes: Sizes
    backbone: str
    student: str
    max_length: int
    targets: Sequence[str] | None
    seed: int = 42


def choose_split_sizes(found: LabeledData, shots: int | None, test: int | None) -> Sizes:
    """Sizes of the sets that a file is enough for: those of the demo, or a quarter for the test set, and what is drawn
    for each class in a ratio that leaves a third of the rest as the pile.

    Args:
        found: The file.
        shots: Labelled examples a class, if a person said it.
        test: Test examples, if a person said it.

    Raises:
        DataError: what a person said leaves no unlabelled text.
    """
    total, classes = found.total, len(found.labels)
    size = min(MAX_TEST, max(1, total // 4)) if test is None else test
    if shots is None:
        # the test set is drawn first, from all classes together: it may take more of a class than its share
        left = 0.8 * min(found.counts.values()) * max(0, 1 - size / total)
        shots = max(1, min(MAX_SHOTS, int(left), (total - size) * 2 // (3 * classes)))
    pile = total - size - shots * classes
    if has_own_unlabeled_set(found):
        return Sizes(shots, 0, size)
    if pile < 1:
        raise DataError(
            f"{total} different texts are too few for {size} test texts and {shots} for each of {classes} labels: "
            "none is left for the unlabelled pile.",
            "Lower --test-size or --shots, or add rows, without a label if you like.",
        )
    return Sizes(shots, min(MAX_UNLABELED, pile), size)


def has_own_unlabeled_set(found: LabeledData) -> bool:
    """Whether the rows without a label are the unlabelled pile: where they are more than the labelled ones leave."""
    return found.num_unlabeled > max(found.total // 2, 1)


def smaller_sizes(sizes: Sizes, shots: int | None, test: int | None) -> tuple[int | None, int | None] | None:
    """The next sizes to try where a class ran out of texts; None where a person fixed what could give way."""
    if shots is None and sizes.shots > 1:
        return sizes.shots - 1, test
    if test is None and sizes.test > 1:
        return sizes.shots, sizes.test * 3 // 4
    return None


def parse_recipe(text: str) -> PipelineConfig:
    """What a recipe's own text says: whoever reads the file reads the same."""
    return load_config(yaml.safe_load(text))


def recipe_text(draft: RecipeDraft) -> str:
    """The recipe as YAML."""
    num_labeled = draft.sizes.shots * len(draft.data.labels)
    pile = draft.sizes.unlabeled or draft.data.num_unlabeled
    steps = max(STUDENT_STEPS[0], min(STUDENT_STEPS[1], pile // 5))
    targets = f", targets: {_flow(draft.targets)}" if draft.targets else ""
    num_baseline = max(BASELINE_STEPS, num_labeled * 12 // 8)
    return "\n".join(
        [
            f"# {num_labeled} labelled texts and {pile:,} unlabelled ones -> a small classifier. Written by "
            "clozeline init; docs/reference/recipe.md",
            f"# tells all keys. `clozeline plan {draft.path}` checks it, `clozeline run {draft.path}` runs it.",
            f"name: {_flow(draft.name)}",
            f"seed: {draft.seed}",
            "",
            *_task(draft),
            "",
            *_data(draft),
            "",
            "backbone:",
            f"  asset: {_block(draft.backbone)}",
            _with(f"  max_length: {draft.max_length}", "tokens of a text with its pattern at the most"),
            "",
            _with("student:", "the encoder that becomes the classifier"),
            f"  asset: {_block(draft.student)}",
            f"  max_length: {draft.max_length}",
            "",
            _with("pet:", "a sub-model for each pattern and seed"),
            "  seeds: [0]",
            _with("  tune: lora", "adapters: megabytes a sub-model, not a whole model"),
            f"  lora: {{rank: 8, alpha: 16{targets}}}",
            "  training: {learning_rate: 0.001, batch_size: 8, epochs: 6}",
            "",
            _with("ensemble:", "all sub-models together label the pile"),
            "  weights: uniform",
            "",
            _with("distill:", "the student learns what they said"),
            "  seeds: [0, 1, 2]",
            "  temperature: 2.0",
            f"  training: {{learning_rate: 5.0e-5, batch_size: 16, steps: {steps}, warmup_ratio: 0.1}}",
            "",
            _with("baseline:", "for comparison: the student on the labelled texts alone"),
            "  seeds: [0, 1, 2]",
            f"  training: {{learning_rate: 5.0e-5, batch_size: 8, steps: {num_baseline}, warmup_ratio: 0.1}}",
            "",
            "# Soft prompts come on top: sections ppt and prompts, see docs/how-to/prompts.md and the recipe demo.",
            "",
        ]
    )


def _task(draft: RecipeDraft) -> list[str]:
    lines = ["task:", f"  name: {_flow(draft.name)}", f"  labels: {_flow(draft.data.labels)}"]
    lines.append(_with("  patterns:", "the cloze questions; {mask} is where a label word goes"))
    lines += [f"    {name}: {_quoted(text)}" for name, text in draft.patterns.items()]
    lines.append(_with("  verbalizer:", "label -> its words; several words count with their mean"))
    return lines + [f"    {_flow(label)}: {_flow(words)}" for label, words in draft.words.items()]


def _data(draft: RecipeDraft) -> list[str]:
    data, sizes = draft.data, draft.sizes
    many = f"{data.total:,} different labelled texts, {min(data.counts.values()):,} of the rarest label"
    lines = [
        "data:",
        _with("  pool:", f"{many}; drawn from here, disjoint by text"),
        *_source(draft),
        f"    label: {_flow(data.label)}",
    ]
    if data.raw:
        lines.append(f"    label_map: {_flow(dict(data.raw))}")
    if data.unlabeled:
        lines.append(f"    filter: {_flow({data.label: sorted({*data.labels, *data.raw})})}")
    if data.num_empty:
        lines.append(_with("    drop_empty: true", f"{data.num_empty:,} rows have no text"))
    if not sizes.unlabeled:
        lines.append(_with("  unlabeled:", f"the {data.num_unlabeled:,} rows without a label"))
        lines += [*_source(draft), f"    filter: {_flow({data.label: list(data.unlabeled)})}"]
        lines += ["    drop_empty: true"] if data.num_empty else []
    lines.append(_with(f"  shots: {sizes.shots}", "labelled examples a class"))
    if sizes.unlabeled:
        lines.append(f"  unlabeled_size: {sizes.unlabeled}")
    return [*lines, f"  test_size: {sizes.test}"]


def _source(draft: RecipeDraft) -> list[str]:
    return [f"    asset: {_block(draft.data.asset)}", f"    fields: {_flow(dict(draft.data.fields))}"]


def _with(line: str, comment: str) -> str:
    return f"{line:<{COMMENT_COLUMN}} # {comment}"


def _flow(value: Any) -> str:
    """A value on one line, in quotes where YAML would take it for something else."""
    plain = list(value) if isinstance(value, tuple) else value
    made = yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return made.strip()[1:-1]


def _block(text: str) -> str:
    """A text on a line of its own, where a colon in it needs no quotes."""
    made = yaml.safe_dump({"asset": text}, allow_unicode=True, width=float("inf"))
    return made.strip().removeprefix("asset: ")


def _quoted(text: str) -> str:
    made = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return made.strip()
