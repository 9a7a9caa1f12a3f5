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

from pipelines.init import defaults, recipe_writer
from pipelines.init.flags import (
    TEXT,
    checked_name,
    count_of,
    pattern_of,
    slug,
    with_flag_hint,
    words_by_label,
    words_flag,
    words_of,
)
from pipelines.init.labeled_file import LabeledData, LabeledFile, check_counts
from pipelines.init.recipe_writer import RecipeDraft, Sizes
from pipelines.init.recommendations import covering_length
from pipelines.preflight import models
from pipelines.preflight.assets import OnStart, fetch
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
"""Texts whose length is looked at."""
SHORTEST, LONGEST = 32, 256
"""Tokens of a text: bounds of what is proposed."""
DEMO = "the demo's"


@dataclass(frozen=True, kw_only=True, slots=True)
class InitOptions:
    """What the flags say; None and empty where they say nothing."""

    data: str
    out: Path | None = None
    name: str | None = None
    text: str | None = None
    label: str | None = None
    patterns: Sequence[str] = ()
    words: Sequence[str] = ()
    shots: int | None = None
    test_size: int | None = None
    backbone: str | None = None
    student: str | None = None
    score: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """The backbone: its config, family and bare tokenizer."""

    config: BackboneConfig
    family: Family
    tokenizer: Any


@dataclass(slots=True)
class InitWizard:
    """Makes one recipe.

    Args:
        wanted: The flags.
        asks: If True, `ask` is called for what no flag sets.
        console: Shows what was read and proposed.
        ask: Called with a question and its default; returns the answer.
        open_output: Opens the recipe's file for writing, given the flag that sets its path.
        progress: Shows the progress of a download.
        demo: The demo's recipe, whose models are proposed.
    """

    options: InitOptions
    asks: bool
    console: Console
    ask: Callable[[str, str | None], str]
    open_output: Callable[[Path, str], AbstractContextManager[TextIO]]
    progress: Callable[[Console], AbstractContextManager[OnStart]]
    demo: PipelineConfig = field(default_factory=lambda: read_recipe(find_recipe("demo"), PipelineConfig))

    def start(self) -> Path:
        """Writes the recipe; returns its file.

        Raises:
            InputError: names the flag that mends it.
        """
        wanted = self.options
        if wanted.out is not None:
            self._check_free(wanted.out)
        file = LabeledFile(wanted.data)
        text = self._text_column(file)
        label = self._label_column(file, text)
        labels = file.labels(label)
        found = file.summarize({TEXT: text}, label)
        check_counts(found, wanted.shots)
        what = f"{found.total} different texts in {text!r}, {len(labels)} labels in {label!r}"
        self.console.print(
            f"read     {wanted.data.partition('#')[0]}: {what}", highlight=False, markup=False, soft_wrap=True
        )
        stem = Path(wanted.out or wanted.data).name.partition(".")[0]
        name = self._ask_or_default("Name of the task", wanted.name, slug(stem), checked_name)
        out = wanted.out or Path(f"{name}.yaml")
        self._check_free(out)
        model = self._backbone()
        student = self._ask_or_default("Student", wanted.student, DEMO, self._student)
        kind = defaults.kind_of(labels, label)
        patterns = self._patterns(file, model, defaults.default_patterns(kind, model.family))
        words = self._words(labels, defaults.label_words(labels, kind, model.tokenizer, model.family), model)
        task = _task(name, labels, patterns, words)
        data = file.summarize({item: text if item == TEXT else item for item in task.fields}, label)
        check_counts(data, wanted.shots)
        with with_flag_hint():
            models.check_scoring(task, list(task.patterns), model.config)
        model = replace(model, config=_with_length(task, data, model))
        draft = RecipeDraft(
            name=name, path=shlex.quote(str(out)), data=data, patterns=patterns, words=words,
            sizes=Sizes(1, 1, 1), backbone=model.config.asset, student=student,
            max_length=model.config.max_length, targets=self._targets(model),
        )  # fmt: skip
        draft, drawn = self._sized(draft)
        if wanted.score:
            self._show_scores(task, model.config, drawn)
        self._write(out, recipe_writer.recipe_text(draft))
        return out

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _ask_or_default(
        self,
        question: str,
        given: str | None,
        default: str | None,
        parse: Callable[[str], Answer],
        missing: InputError | None = None,
    ) -> Answer:
        """What a flag says, else what a person answers until it can be used, else the default.

        Args:
            question: For the person.
            given: The flag's value.
            default: What is proposed; None: nothing, and without a person that is the error `missing`.
            parse: Makes the answer of the words; its complaint is shown, and asked again.
            missing: See `default`.
        """
        if given is not None:
            return parse(given)
        while self.asks:
            answer = self.ask(question, default)
            try:
                return parse(answer)
            except InputError as error:
                self.console.print(escape(str(error)), style="yellow", highlight=False, soft_wrap=True)
        if default is None:
            assert missing is not None
            raise missing
        return parse(default)

    def _text_column(self, file: LabeledFile) -> str:
        guess = file.guess_text(self.options.label)
        return self._ask_or_default(
            f"Column of the text ({', '.join(file.columns)})",
            self.options.text,
            guess,
            lambda name: file.column(name, "--text"),
            file.cannot_infer_error("text", "--text"),
        )

    def _label_column(self, file: LabeledFile, text: str) -> str:
        def parse(name: str) -> str:
            file.labels(file.column(name, "--label", taken=text))
            return name

        others = ", ".join(item for item in file.columns if item != text)
        guess = file.guess_label(text)
        return self._ask_or_default(
            f"Column of the label ({others})",
            self.options.label,
            guess,
            parse,
            file.cannot_infer_error("label", "--label"),
        )

    def _backbone(self) -> Model:
        def parse(ref: str) -> Model:
            config = BackboneConfig(asset=self.demo.backbone.asset if ref == DEMO else ref)
            with with_flag_hint(), self.progress(self.console) as show:
                fetch({"backbone.asset": config.asset}, show)
                try:
                    family = family_of(model_folder(config.asset))
                    return Model(config, family, models.bare_tokenizer(config))
                except InputError as error:
                    raise error.at(key="backbone.asset") from error

        return self._ask_or_default(
            "Backbone: a folder, a GGUF file or a reference", self.options.backbone, DEMO, parse
        )

    def _student(self, ref: str) -> str:
        if ref == DEMO:
            return self.demo.student.asset
        with with_flag_hint():
            try:
                asset = Asset.parse(ref)
            except InputError as error:
                raise error.at(key="student.asset") from error
            if asset.scheme == "path" and not Path(asset.name).exists():
                raise InputError(f"{ref!r} does not exist.", "Name a folder or a reference.", key="student.asset")
        return ref

    def _patterns(self, file: LabeledFile, model: Model, proposed: Mapping[str, str]) -> dict[str, str]:
        def parse(item: str) -> tuple[str, str]:
            return pattern_of(item, file.columns, model.family)

        def optional(item: str) -> tuple[str, str] | None:
            return parse(item) if item else None

        if self.options.patterns:
            given = [parse(item) for item in self.options.patterns]
            twice = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
            if twice:
                raise PatternError(f"the pattern {twice[0]!r} is given twice.", "Keep one: --pattern NAME=TEXT.")
            return dict(given)
        if not self.asks:
            return dict(proposed)
        self.console.print("Patterns that are proposed:", highlight=False)
        for name, text in proposed.items():
            self.console.print(escape(f"  {name}={_on_one_line(text)}"), highlight=False, soft_wrap=True)
        own: dict[str, str] = {}
        while True:
            question = "Another (Enter: no more)" if own else "Enter takes them; or write your own, NAME=TEXT"
            answer = self._ask_or_default(question, None, "", optional)
            if answer is None:
                return own or dict(proposed)
            own[answer[0]] = answer[1]

    def _words(self, labels: Sequence[str], proposed: Mapping[str, list[str]], model: Model) -> dict[str, list[str]]:
        given = words_by_label(self.options.words, labels)
        found: dict[str, list[str]] = {}
        for label in labels:

            def parse(item: str, label: str = label) -> list[str]:
                words = words_of(item, label)
                with with_flag_hint(label):
                    Verbalizer.of({**found, label: words}, model.tokenizer, model.family)
                return words

            missing = VerbalizerError(
                f"the name of the label {label!r} gives no word that says what it means.",
                f"Name some: {words_flag(label)}.",
            )
            default = ",".join(proposed[label]) or None
            found[label] = self._ask_or_default(f"Words for {label}", given.get(label), default, parse, missing)
        return found

    # --- what follows from the answers ------------------------------------------------------------------------------

    def _targets(self, model: Model) -> Sequence[str] | None:
        """The demo's own choice of layers is for its backbone; any other gets adapters everywhere."""
        targets = self.demo.pet.lora.targets
        return targets if model.config.asset == self.demo.backbone.asset and not isinstance(targets, str) else None

    def _sized(self, draft: RecipeDraft) -> tuple[RecipeDraft, Split]:
        """Sizes that the file is enough for, proven by drawing the sets as the run will."""
        shots, test = self._asked_sizes(draft.data)
        sizes = recipe_writer.choose_split_sizes(draft.data, shots, test)
        while True:
            made = replace(draft, sizes=sizes)
            config = recipe_writer.parse_recipe(recipe_writer.recipe_text(made))
            seed = derive_seed(config.seed, f"data/{config.task.name}")
            wanted = SplitsConfig(data=config.data, labels=config.task.labels, fields=config.task.fields, seed=seed)
            try:
                return made, sample_splits(wanted)
            except DataError as error:
                smaller = recipe_writer.smaller_sizes(sizes, shots, test)
                if smaller is None or not error.key.startswith("data.shots"):
                    with with_flag_hint():
                        raise
                sizes = recipe_writer.choose_split_sizes(draft.data, *smaller)

    def _asked_sizes(self, data: LabeledData) -> tuple[int | None, int | None]:
        """Shots and size of the test set: what flags or a person say, None for what is left to be shared out."""
        wanted = self.options
        if not self.asks:
            return wanted.shots, wanted.test_size

        usual = recipe_writer.choose_split_sizes(data, wanted.shots, wanted.test_size)
        shots = wanted.shots or self._ask_or_default("Labelled examples a class", None, str(usual.shots), count_of)
        test = wanted.test_size or self._ask_or_default("Test texts", None, str(usual.test), count_of)
        # what was proposed may still become smaller
        return (
            shots if wanted.shots or shots != usual.shots else None,
            test if wanted.test_size or test != usual.test else None,
        )

    def _show_scores(self, task: Task, config: BackboneConfig, drawn: Split) -> None:
        """A table of the patterns' accuracy before any training, on texts that are not in the test set."""
        known = [item for item in (*drawn.train, *drawn.unlabeled) if item.label is not None]
        python_rng(0, "init").shuffle(known)
        known = known[:MAX_SCORED]
        found = batch_inference.pattern_accuracies(task, config, known)
        table = Table("pattern", "zero-shot accuracy", "text", box=None)
        for name, accuracy in sorted(found.items(), key=lambda item: -item[1]):
            table.add_row(escape(name), f"{100 * accuracy:.1f}", escape(_on_one_line(task.patterns[name])))
        most = max(Counter(item.label for item in known).values()) / len(known)
        table.add_row("(the most frequent label)", f"{100 * most:.1f}", "", style="dim")
        self.console.print(table)
        self.console.print(f"on {len(known)} labelled texts outside the test set", style="dim", highlight=False)

    # --- the file ---------------------------------------------------------------------------------------------------

    def _check_free(self, out: Path) -> None:
        if out.exists() and not self.options.force:
            raise InputError(f"{out} exists.", "Name another file (--out), or write over it: --force.")

    def _write(self, out: Path, text: str) -> None:
        self._check_free(out)  # the scores may have taken minutes
        with self.open_output(out, "--out") as file:
            file.write(text)


def _task(name: str, labels: Sequence[str], patterns: Mapping[str, str], words: Mapping[str, list[str]]) -> Task:
    return Task(name=name, labels=tuple(labels), patterns=dict(patterns), verbalizer=dict(words))


def _with_length(task: Task, data: LabeledData, model: Model) -> BackboneConfig:
    """The backbone with room for most of the texts, as far as it has positions."""
    wanted = LONGEST // 2
    if hasattr(model.tokenizer, "encode_batch"):  # else a tokenizer of transformers, in another form
        texts = [Example(str(number), item) for number, item in enumerate(data.texts[:MAX_MEASURED])]
        wanted = -(-covering_length(task, texts, model.tokenizer) // 8) * 8
    wanted = min(LONGEST, max(SHORTEST, wanted))
    room = max_positions(model_folder(model.config.asset))
    return model.config.model_copy(update={"max_length": min(wanted, room or wanted)})


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")
