"""`clozeline init`: writes a recipe that plans and runs for a file of labeled texts.

Asks for each value that no flag sets, or uses a default if the input is not interactive.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.init import recipe_writer
from pipelines.init.flags import (
    TEXT,
    label_words_flag,
    parse_count,
    parse_name,
    parse_pattern,
    parse_words,
    slug,
    with_flag_hint,
    words_by_label,
)
from pipelines.init.labeled_file import LabeledData, LabeledFile, check_counts
from pipelines.init.recipe_writer import RecipeDraft, Sizes
from pipelines.init.recommendations import covering_length
from pipelines.preflight import models
from pipelines.preflight.checks import OnStart, fetch
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.serving import batch_inference
from stages.common.assets.references import Asset
from stages.common.errors import DataError, InputError, PatternError, VerbalizerError
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import family_of, max_positions, model_folder
from stages.common.patterns.config import Family, Task
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.seeds import derive_seed, python_rng
from stages.splits.config import SplitsConfig
from stages.splits.stage import Split, sample_splits

Answer = TypeVar("Answer")
MAX_SCORED = 200
MAX_MEASURED = 1000
"""Maximum number of texts whose length is measured."""
MIN_LENGTH, MAX_LENGTH = 32, 256
"""Bounds of the default `max_length`, in tokens."""
DEMO = "as in demo"
"""Stands for the model of the recipe demo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitOptions:
    """The flags of `clozeline init`; None or empty if not set."""

    data: str
    output: Path | None = None
    name: str | None = None
    text: str | None = None
    label: str | None = None
    patterns: Sequence[str] = ()
    label_words: Sequence[str] = ()
    shots: int | None = None
    test_size: int | None = None
    backbone: str | None = None
    student: str | None = None
    score: bool = True
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Interaction:
    """Connects the wizard to the terminal."""

    console: Console
    """Shows what was loaded and proposed."""
    ask: Callable[[str, str | None], str] | None
    """Asks a question with a default and returns the answer; None: use the defaults."""
    open_output: Callable[[Path], AbstractContextManager[TextIO]]
    """Opens the recipe for writing."""
    progress: Callable[[Console], AbstractContextManager[OnStart]]
    """Shows the progress of downloads."""


@dataclass(frozen=True, slots=True)
class Model:
    """The backbone: its config, family and bare tokenizer."""

    config: BackboneConfig
    family: Family
    tokenizer: Any


@dataclass(slots=True)
class InitWizard:
    """Writes one recipe. Proposes the models of the recipe `demo`."""

    options: InitOptions
    terminal: Interaction
    demo: PipelineConfig = field(default_factory=lambda: read_recipe(find_recipe("demo"), PipelineConfig))

    def write_recipe(self) -> Path:
        """Writes the recipe and returns its path.

        Raises:
            InputError: a value is missing or wrong; names the flag that sets it.
        """
        options, console = self.options, self.terminal.console
        if options.output is not None:
            self._check_free(options.output)
        file = LabeledFile(options.data)
        text = self._text_column(file)
        label = self._label_column(file, text)
        labels = file.labels(label)
        data = file.summarize({TEXT: text}, label)
        check_counts(data, options.shots)
        summary = f"{data.total} different texts in {text!r}, {len(labels)} labels in {label!r}"
        console.print(
            f"loaded    {options.data.partition('#')[0]}: {summary}", highlight=False, markup=False, soft_wrap=True
        )
        stem = Path(options.output or options.data).name.partition(".")[0]
        name = self._ask_or_default("Name of the task", options.name, slug(stem), parse_name)
        output = options.output or Path(f"{name}.yaml")
        self._check_free(output)
        model = self._backbone()
        student = self._ask_or_default("Student", options.student, DEMO, self._parse_student)
        kind = recipe_writer.kind_of(labels, label)
        patterns = self._patterns(file, model, recipe_writer.default_patterns(kind, model.family))
        words = self._label_words(labels, recipe_writer.label_words(labels, kind, model.tokenizer, model.family), model)
        task = Task(name=name, labels=labels, patterns=patterns, verbalizer=words)
        data = file.summarize({item: text if item == TEXT else item for item in task.fields}, label)
        check_counts(data, options.shots)
        with with_flag_hint():
            models.check_scoring(task, list(task.patterns), model.config)
        model = replace(model, config=_with_max_length(task, data, model))
        draft = RecipeDraft(
            name=name, path=shlex.quote(str(output)), data=data, patterns=patterns, words=words,
            sizes=Sizes(1, 1, 1), backbone=model.config.asset, student=student,
            max_length=model.config.max_length, targets=self._lora_targets(model),
        )  # fmt: skip
        draft, splits = self._with_sizes(draft)
        if options.score:
            self._show_accuracies(task, model.config, splits)
        self._check_free(output)  # again: the scores may have taken minutes
        with self.terminal.open_output(output) as recipe:
            recipe.write(recipe_writer.recipe_text(draft))
        return output

    def _ask_or_default(
        self,
        question: str,
        flag: str | None,
        default: str | None,
        parse: Callable[[str], Answer],
        missing: InputError | None = None,
    ) -> Answer:
        """Returns the value of the flag, else the user's first valid answer, else the default.

        Args:
            question: The question for the user.
            flag: The value of the flag, if set.
            default: The default; None: raise `missing` if the input is not interactive.
            parse: Makes a value from a text. Its errors are shown, and the question is repeated.
            missing: See `default`.
        """
        if flag is not None:
            return parse(flag)
        while self.terminal.ask is not None:
            answer = self.terminal.ask(question, default)
            try:
                return parse(answer)
            except InputError as error:
                self.terminal.console.print(escape(str(error)), style="yellow", highlight=False, soft_wrap=True)
        if default is None:
            assert missing is not None
            raise missing
        return parse(default)

    def _text_column(self, file: LabeledFile) -> str:
        return self._ask_or_default(
            f"Column of the text ({', '.join(file.columns)})",
            self.options.text,
            file.guess_text(self.options.label),
            lambda name: file.column(name, "--text"),
            file.cannot_infer_error("text", "--text"),
        )

    def _label_column(self, file: LabeledFile, text: str) -> str:
        def parse(name: str) -> str:
            file.labels(file.column(name, "--label", text_column=text))
            return name

        return self._ask_or_default(
            f"Column of the label ({', '.join(item for item in file.columns if item != text)})",
            self.options.label,
            file.guess_label(text),
            parse,
            file.cannot_infer_error("label", "--label"),
        )

    def _backbone(self) -> Model:
        def parse(ref: str) -> Model:
            config = BackboneConfig(asset=self.demo.backbone.asset if ref == DEMO else ref)
            with with_flag_hint(), self.terminal.progress(self.terminal.console) as on_start:
                fetch({"backbone.asset": config.asset}, on_start)
                try:
                    return Model(config, family_of(model_folder(config.asset)), models.bare_tokenizer(config))
                except InputError as error:
                    raise error.at(key="backbone.asset") from error

        question = "Backbone (a folder, a GGUF file or an asset reference)"
        return self._ask_or_default(question, self.options.backbone, DEMO, parse)

    def _parse_student(self, ref: str) -> str:
        if ref == DEMO:
            return self.demo.students["small"].asset
        with with_flag_hint():
            try:
                asset = Asset.parse(ref)
            except InputError as error:
                raise error.at(key="students.small.asset") from error
            if asset.scheme == "path" and not Path(asset.name).exists():
                raise InputError(
                    f"{ref!r} does not exist.", "Specify a folder or an asset reference.", key="students.small.asset"
                )
        return ref

    def _patterns(self, file: LabeledFile, model: Model, proposed: Mapping[str, str]) -> dict[str, str]:
        def parse(item: str) -> tuple[str, str]:
            return parse_pattern(item, file.columns, model.family)

        if self.options.patterns:
            given = [parse(item) for item in self.options.patterns]
            repeated = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
            if repeated:
                raise PatternError(f"the pattern {repeated[0]!r} is given twice.", "Keep one: --pattern NAME=TEXT.")
            return dict(given)
        if self.terminal.ask is None:
            return dict(proposed)
        console = self.terminal.console
        console.print("Proposed patterns:", highlight=False)
        for name, text in proposed.items():
            console.print(escape(f"  {name}={_on_one_line(text)}"), highlight=False, soft_wrap=True)
        patterns: dict[str, str] = {}
        while True:
            question = "Another pattern (Enter: no more)" if patterns else "Enter uses these, or write NAME=TEXT"
            answer = self._ask_or_default(question, None, "", lambda item: parse(item) if item else None)
            if answer is None:
                return patterns or dict(proposed)
            patterns[answer[0]] = answer[1]

    def _label_words(
        self, labels: Sequence[str], proposed: Mapping[str, list[str]], model: Model
    ) -> dict[str, list[str]]:
        flags = words_by_label(self.options.label_words, labels)
        verbalizer: dict[str, list[str]] = {}
        for label in labels:

            def parse(item: str, label: str = label) -> list[str]:
                words = parse_words(item, label)
                with with_flag_hint(label):
                    Verbalizer.of({**verbalizer, label: words}, model.tokenizer, model.family)
                return words

            missing = VerbalizerError(
                f"the name of the label {label!r} yields no label words.", f"Add some: {label_words_flag(label)}."
            )
            default = ",".join(proposed[label]) or None
            verbalizer[label] = self._ask_or_default(f"Words for {label}", flags.get(label), default, parse, missing)
        return verbalizer

    def _lora_targets(self, model: Model) -> Sequence[str] | None:
        """Returns the layers that the demo adapts if the backbone is the demo's; None: adapt all linear layers."""
        targets = self.demo.pet.lora.targets
        return targets if model.config.asset == self.demo.backbone.asset and not isinstance(targets, str) else None

    def _with_sizes(self, draft: RecipeDraft) -> tuple[RecipeDraft, Split]:
        """Adds split sizes, and draws the splits as the run will draw them to prove that the file is large enough."""
        shots, test_size = self._sizes(draft.data)
        sizes = recipe_writer.choose_split_sizes(draft.data, shots, test_size)
        while True:
            draft = replace(draft, sizes=sizes)
            config = recipe_writer.parse_recipe(recipe_writer.recipe_text(draft))
            seed = derive_seed(config.seed, f"data/{config.task.name}")
            splits = SplitsConfig(data=config.data, labels=config.task.labels, fields=config.task.fields, seed=seed)
            try:
                return draft, sample_splits(splits)
            except DataError as error:
                smaller = recipe_writer.smaller_sizes(sizes, shots, test_size)
                if smaller is None or not error.key.startswith("data.shots"):
                    with with_flag_hint():
                        raise
                sizes = recipe_writer.choose_split_sizes(draft.data, *smaller)

    def _sizes(self, data: LabeledData) -> tuple[int | None, int | None]:
        """Returns shots and test size if a flag or the user sets them; None for a value that may still change."""
        options = self.options
        if self.terminal.ask is None:
            return options.shots, options.test_size
        default = recipe_writer.choose_split_sizes(data, options.shots, options.test_size)
        shots = options.shots or self._ask_or_default(
            "Labeled examples per class", None, str(default.shots), parse_count
        )
        test_size = options.test_size or self._ask_or_default("Test examples", None, str(default.test), parse_count)
        return (
            shots if options.shots or shots != default.shots else None,
            test_size if options.test_size or test_size != default.test else None,
        )

    def _show_accuracies(self, task: Task, config: BackboneConfig, splits: Split) -> None:
        """Prints the zero-shot accuracy of each pattern on labeled examples that are not in the test set."""
        examples = [item for item in (*splits.train, *splits.unlabeled) if item.label is not None]
        python_rng(0, "init").shuffle(examples)
        examples = examples[:MAX_SCORED]
        accuracies = batch_inference.pattern_accuracies(task, config, examples)
        table = Table("pattern", "zero-shot accuracy", "text", box=None)
        for name, accuracy in sorted(accuracies.items(), key=lambda item: -item[1]):
            table.add_row(escape(name), f"{100 * accuracy:.1f}", escape(_on_one_line(task.patterns[name])))
        majority = max(Counter(item.label for item in examples).values()) / len(examples)
        table.add_row("(most frequent label)", f"{100 * majority:.1f}", "", style="dim")
        self.terminal.console.print(table)
        self.terminal.console.print(
            f"on {len(examples)} labeled examples that are not in the test set", style="dim", highlight=False
        )

    def _check_free(self, path: Path) -> None:
        if path.exists() and not self.options.force:
            raise InputError(f"{path} exists.", "Set --output to another file, or overwrite it with --force.")


def _with_max_length(task: Task, data: LabeledData, model: Model) -> BackboneConfig:
    """Sets `max_length` to fit most texts, within the positions of the backbone."""
    length = MAX_LENGTH // 2
    if hasattr(model.tokenizer, "encode_batch"):  # tokenizers of transformers have another interface
        texts = [Example(str(number), item) for number, item in enumerate(data.texts[:MAX_MEASURED])]
        length = -(-covering_length(task, texts, model.tokenizer) // 8) * 8
    length = min(MAX_LENGTH, max(MIN_LENGTH, length))
    num_positions = max_positions(model_folder(model.config.asset))
    return model.config.model_copy(update={"max_length": min(length, num_positions or length)})


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")
