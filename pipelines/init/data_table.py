"""The table of what `init` has read from each file, and warnings about what may hurt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pipelines.init.interaction import Interaction
from pipelines.init.labeled_file import LabeledData, TextData
from pipelines.init.language import Language, describe_choice
from pipelines.init.spellings import spelling_variants
from pipelines.init.task_data import TaskData
from pipelines.init.text_lengths import MAX_LENGTH, estimate_tokens
from stages.common.config import LabelBias
from stages.common.data.recognition import describe
from stages.common.data.text_keys import text_key
from stages.common.examples import label_set

MAX_NEAR_DUPLICATES = 0.1
"""Fraction of near-duplicates above which a sampled test set is too easy."""
MAX_IMBALANCE = 20
"""Ratio of the most frequent label to the rarest above which accuracy says little."""
MAX_LONG = 0.5
"""Fraction of texts that are longer than an encoder reads above which much is not read."""
MAX_SAMPLE = 10_000
"""Maximum number of texts of a file whose length is measured."""
CONFLICTS = "texts with different labels"
MAX_SHOWN = 4
"""Maximum number of labels or spellings that are listed."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file, and what is counted in its texts."""

    data: TextData
    near_keys: Mapping[str, str]
    """Key of each of its texts, equal for the same text -> key that is equal for near-duplicates."""

    @classmethod
    def of(cls, data: TextData) -> FileFacts:
        """Counts what is in a file."""
        keys = dict.fromkeys(text_key(row.values()) for row in data.texts)
        return cls(data, {key: near_key(key) for key in keys})

    @property
    def num_near(self) -> int:
        """Number of texts that are near-duplicates of another one before them, but not the same text."""
        return len(self.near_keys) - len(set(self.near_keys.values()))

    def num_shared(self, other: FileFacts) -> int:
        """Returns the number of texts that another file has, too."""
        return len(self.near_keys.keys() & other.near_keys.keys())

    def num_nearly_shared(self, other: FileFacts) -> int:
        """Returns the number of texts of which another file has a near-duplicate, but not the same text."""
        others = set(other.near_keys.values())
        return sum(key not in other.near_keys and near in others for key, near in self.near_keys.items())

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(self.data.source.asset.partition("#")[0]).name


def show(data: TaskData, language: Language, label_bias: LabelBias, terminal: Interaction) -> None:
    """Prints a column per file and a row per property, without rows that are zero in every file, then the warnings."""
    train, *others = (FileFacts.of(item) for item in (data.train, *data.unlabeled, data.dev, data.test) if item)
    columns = [_properties(item, train) for item in (train, *others)]
    sample = [" ".join(row.values()) for row in data.train.texts[:MAX_SAMPLE]]
    columns[0]["language"] = describe_choice(language, sample)
    table = Table("Data", *(escape(item.name) for item in (train, *others)), box=None)
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name, "") for column in columns]
        if any(value not in ("", "0") for value in values):
            table.add_row(escape(name), *map(escape, values))
    terminal.console.print(table)
    for warning in _warnings(data, train, others, label_bias):
        terminal.say("warning", warning)


def _properties(file: FileFacts, train: FileFacts) -> dict[str, str]:
    """Returns name -> value of each property of a file."""
    data = file.data
    properties = {
        "columns": ", ".join(
            [*data.fields.values(), *([data.label] if isinstance(data, LabeledData) else []), *data.keys.values()]
        ),
        "format": describe(data.source),
        "rows": f"{data.num_rows:,}",
        "sampled rows": f"{len(data.texts) + data.num_empty:,}" if data.is_sample else "",
    }
    if isinstance(data, LabeledData):
        properties["with text and label"] = f"{len(data.texts):,}"
        properties["without a label"] = f"{data.num_unlabeled:,}"
    properties["groups"] = f"{len(data.groups):,}"
    properties["without text"] = f"{data.num_empty:,}"
    properties["duplicates"] = f"{len(data.texts) - len(file.near_keys):,}"
    properties["near-duplicates"] = f"{file.num_near:,}"
    if isinstance(data, LabeledData):
        properties[CONFLICTS] = f"{data.num_conflicts:,}"
    if file is not train:
        properties[f"texts that are in {train.name}"] = f"{file.num_shared(train):,}"
        properties[f"near-duplicates in {train.name}"] = f"{file.num_nearly_shared(train):,}"
    lengths = sorted(sum(map(len, row.values())) for row in data.texts[:MAX_SAMPLE])
    if lengths:
        middle, long = lengths[len(lengths) // 2], lengths[int(0.95 * (len(lengths) - 1))]
        properties["characters"] = f"{middle:,} (median), {long:,} (95%)"
    if isinstance(data, LabeledData):
        properties["labels"] = _balance(data.counts)
    if isinstance(data, LabeledData) and data.has_label_sets:
        sizes = Counter(len(label_set(label)) for label in data.gold)
        shown = ", ".join(f"{size}: {sizes[size]:,} texts" for size in sorted(sizes)[:MAX_SHOWN])
        properties["labels per text"] = shown if len(sizes) <= MAX_SHOWN else f"{shown}, …"
    return properties


def _warnings(data: TaskData, train: FileFacts, others: Sequence[FileFacts], label_bias: LabelBias) -> Iterator[str]:
    """Yields a sentence about each thing that may hurt, with what to do."""
    texts = data.train.texts
    counts = Counter(name for label in data.train.gold for name in label_set(label))
    for labels in list(spelling_variants(counts).values())[:MAX_SHOWN]:
        names = " and ".join(f"{label!r} ({counts[label]:,} texts)" for label in labels[:MAX_SHOWN])
        yield f"{names} may be one label. Merge such spellings with --merge-labels."
    if data.num_conflicts:
        conflicts = f"{CONFLICTS} ({data.num_conflicts:,})"
        if data.conflicts == "drop":
            or_all = "" if data.train.has_label_sets else ", or all of them with soft"
            yield f"{conflicts} are left out. Use their first label with --conflicts first{or_all}."
        elif data.conflicts == "first":
            yield f"{conflicts} keep the first. Leave them out with --conflicts drop."
        else:
            yield f"{conflicts} train with all of their labels. The test set has none of them."
    for file in others:
        num_seen, num_near, num_texts = file.num_shared(train), file.num_nearly_shared(train), len(file.near_keys)
        num_groups = len(file.data.groups & train.data.groups)
        if num_groups and isinstance(file.data, LabeledData):
            yield (
                f"{num_groups:,} of {len(file.data.groups):,} groups of {file.name} are also in {train.name}, so "
                "accuracies may be too high. Move each group to one of the files."
            )
        if num_seen and isinstance(file.data, LabeledData):
            yield (
                f"{num_seen:,} of {num_texts:,} texts of {file.name} are also in {train.name}, so accuracies will "
                "be too high. Remove them from one of the files."
            )
        if num_near > MAX_NEAR_DUPLICATES * num_texts and isinstance(file.data, LabeledData):
            yield (
                f"{num_near:,} of {num_texts:,} texts of {file.name} differ from one of {train.name} only in numbers, "
                "punctuation or order, so accuracies may be too high. Use texts of other cases there."
            )
    if data.test is None and train.num_near > MAX_NEAR_DUPLICATES * len(texts):
        yield (
            f"{train.num_near:,} of {len(texts):,} texts differ from another only in numbers, punctuation or order, "
            "so a sampled test set is too easy. Set other texts as the test set: --test FILE."
        )
    if is_imbalanced(data.train.counts) and label_bias != "frequencies":
        most, rarest = max(data.train.counts.values()), min(data.train.counts.values())
        remedy = (
            "Rare labels may never be predicted. Set --label-bias macro_f1."
            if label_bias == "none"
            else "Look at macro-F1 rather than accuracy: label_bias maximizes it (--label-bias none)."
        )
        yield f"the labels have between {rarest:,} and {most:,} texts. {remedy}"
    sample = [" ".join(row.values()) for row in texts[:MAX_SAMPLE]]
    num_long = sum(estimate_tokens(text) > MAX_LENGTH for text in sample)
    if num_long > MAX_LONG * len(sample):
        yield f"most texts are longer than {MAX_LENGTH} tokens, of which models read the start. Split them."


def is_imbalanced(counts: Mapping[str, int]) -> bool:
    """Returns True if accuracy says little about the rarest label. `counts`: label -> number of texts."""
    return max(counts.values()) > MAX_IMBALANCE * max(min(counts.values()), 1)


def near_key(key: str) -> str:
    """Returns a key that near-duplicates share: numbers, punctuation and the order of words do not matter.

    Args:
        key: From `text_key`.
    """
    return " ".join(sorted(set(re.findall(r"[^\W\d_]+", key)))) or key


def _balance(counts: Mapping[str, int]) -> str:
    """Returns the number of labels, and the number of texts of the most frequent ones and of the rarest."""
    ordered = sorted(counts, key=lambda label: -counts[label])
    shown = [f"{label} {counts[label]:,}" for label in ordered[:MAX_SHOWN]]
    if len(ordered) > MAX_SHOWN:
        shown[-1:] = ["…", f"{ordered[-1]} {counts[ordered[-1]]:,}"]
    return f"{len(ordered)}: {', '.join(shown)}"
