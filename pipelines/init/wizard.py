"""`clozeline init`: writes a recipe that plans and runs for the files of a user.

Asks for each value that no flag sets, or uses a default if the input is not interactive.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.default_models import MODELS
from pipelines.init import data_table, label_words, recipe_writer
from pipelines.init.budget import (
    DEFAULT_BUDGET,
    UNLABELED_SIZES,
    Workload,
    format_duration,
    num_scored,
    parse_budget,
    unlabeled_used,
)
from pipelines.init.cloze_choices import (
    NONE,
    Backbone,
    choose_backbone,
    choose_label_words,
    choose_patterns,
    family_of_backbone,
)
from pipelines.init.cloze_selection import MAX_PATTERNS, NO_WORDS, Proposals, select, verbalizer_of
from pipelines.init.column_choices import choose_label_column, choose_text_columns, fields_of
from pipelines.init.default_recipe import (
    SEED,
    Assets,
    FittedRecipe,
    RecipeProfile,
    default_backbone,
    default_encoders,
    encoder_section,
    fit_recipe,
)
from pipelines.init.flags import (
    descriptions_by_label,
    in_order,
    parse_count,
    parse_name,
    slug,
    with_flag_hint,
    words_by_label,
)
from pipelines.init.interaction import Interaction
from pipelines.init.labeled_file import Conflicts, LabeledFile
from pipelines.init.language import Language, detect_language, is_chinese
from pipelines.init.patterns import proposed_patterns
from pipelines.init.progress_lines import ProgressLines
from pipelines.init.relations import labels_relate_texts
from pipelines.init.task_data import TaskData, TaskFiles
from pipelines.init.text_lengths import Lengths, measure_lengths
from pipelines.preflight import models
from pipelines.preflight.checks import fetch
from pipelines.schema.relative_paths import with_relative_paths
from stages.common.assets.references import Asset
from stages.common.config import MULTI_LABEL, ORDINAL, SINGLE_LABEL, ClassWeights, LabelBias, ProblemType
from stages.common.errors import DataError, InputError
from stages.common.examples import Example
from stages.common.models.model_files import model_folder
from stages.common.models.traits_cache import folder_max_positions
from stages.common.patterns.config import Task
from stages.common.seeds import derive_seed, python_rng
from stages.distillation.config import min_unlabeled
from stages.splits.config import DataConfig, SplitsConfig
from stages.splits.stage import Split, count_labels, sample_splits

MAX_MEASURED = 1000
"""Maximum number of texts whose language and length are measured."""
DEFAULT = "default"
"""Answer that chooses the encoders by the language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitOptions:
    """The flags of `clozeline init`; None or empty if not set."""

    data: str
    unlabeled: Sequence[str] = ()
    dev: str | None = None
    test: str | None = None
    output: Path | None = None
    name: str | None = None
    text: str | None = None
    label: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """`id` and `group` -> column."""
    patterns: Sequence[str] = ()
    label_words: Sequence[str] = ()
    descriptions: Sequence[str] = ()
    label_separator: str | None = None
    ordered_labels: str | None = None
    """All labels from low to high, separated by commas."""
    merge_labels: bool = False
    conflicts: Conflicts = "drop"
    class_weights: ClassWeights = "none"
    label_bias: LabelBias | None = None
    shots: int | None = None
    test_size: int | None = None
    language: Language | None = None
    backbone: str | None = None
    student: str | None = None
    assets: Assets = "packages"
    budget: str = DEFAULT_BUDGET
    score: bool = True
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloze:
    """Patterns, and the language model and its label words if the recipe has PET."""

    patterns: dict[str, str]
    """Before the selection: all that are proposed, or those of the user."""
    has_own_patterns: bool
    """Whether the user sets the patterns."""
    asset: str | None
    """The language model."""
    backbone: Backbone | None = None
    """The language model, after its download."""
    num_readings: float = 1.0
    """How often it reads a text per pattern."""
    verbalizer: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    """Why the recipe has no PET; empty if it has, or if the budget decides."""

    @property
    def kept(self) -> dict[str, str]:
        """Patterns of the recipe: all of the user, or at most three."""
        names = list(self.patterns)
        return {name: self.patterns[name] for name in (names if self.has_own_patterns else names[:MAX_PATTERNS])}


@dataclass(frozen=True, slots=True)
class InitWizard:
    """Writes one recipe."""

    options: InitOptions
    terminal: Interaction

    def write_recipe(self) -> Path:
        """Writes the recipe and returns its path.

        Raises:
            InputError: a value is missing or wrong; names the flag that sets it.
        """
        options = self.options
        budget = parse_budget(options.budget)
        if options.test and options.test_size:
            raise InputError("there is a test file, so no test set is sampled.", "Remove --test-size or --test.")
        if options.shots and options.conflicts == "soft":
            raise InputError(
                "--shots samples one row per text, so no text keeps several labels.", "Remove --shots or --conflicts."
            )
        if options.output is not None:
            self._check_free(options.output)
        files = TaskFiles.read(
            options.data,
            options.unlabeled,
            options.dev,
            options.test,
            separator=options.label_separator,
            merge_labels=options.merge_labels,
            conflicts=options.conflicts,
            keys=options.keys,
            on_progress=ProgressLines(self.terminal, "reading").update,
        )
        keys = set(options.keys.values())
        columns = choose_text_columns(self.terminal, files.train, options.text, {*keys, options.label or ""})
        label = choose_label_column(self.terminal, files.train, options.label, columns, keys)
        labels = files.labels(label)
        problem_type = self._problem_type(files.train, label)
        if problem_type == ORDINAL:
            labels = in_order(labels, self.options.ordered_labels or "")
        elif problem_type == SINGLE_LABEL and len(labels) > 2 and all(name.isdecimal() for name in labels):
            flag = f"--ordered-labels {','.join(sorted(labels, key=int))}"
            self.terminal.say("hint", f"if the labels {', '.join(labels)} are grades on a scale, add {flag}.")
        data = files.summarize(fields_of(columns), label)
        language = self._language(data)
        label_bias = options.label_bias or self._default_label_bias(data)
        data_table.show(data, language, label_bias, self.terminal)
        stem = Path(options.output or options.data).name.partition(".")[0]
        name = self.terminal.ask_or_default("Name of the task", options.name, slug(stem), parse_name)
        output = options.output or Path(f"{name}.yaml")
        self._check_free(output)
        encoder = self.terminal.ask_or_default("Encoder", options.student, DEFAULT, self._parse_encoder)
        # a wrong flag is an error before any download
        words_by_label(options.label_words, labels)
        descriptions_by_label(options.descriptions, labels)
        cloze = self._cloze(files.train, data, columns, language)
        task = Task(name=name, labels=labels, problem_type=problem_type, patterns=cloze.patterns)
        data = files.summarize({item: fields_of(columns).get(item, item) for item in task.fields}, label)
        section, splits = self._draw(task, data)
        examples = [*splits.train, *splits.unlabeled][:MAX_MEASURED]
        lengths = measure_lengths([" ".join(item.fields.values()) for item in examples])
        encoders = self._encoders(encoder, language, lengths)

        relates_texts = labels_relate_texts(task, splits.train, lengths.analyzer)

        def profile(cloze: Cloze) -> RecipeProfile:
            found = _profile(task, section, splits, cloze, encoders, lengths)
            return replace(
                found, class_weights=options.class_weights, label_bias=label_bias, relates_texts=relates_texts
            )

        recipe = fit_recipe(profile(cloze), budget)
        if "pet" in recipe.sections:
            proposals = self._propose(cloze, task, examples, is_pair=len(columns) > 1)
            cloze = replace(cloze, backbone=proposals.backbone, num_readings=proposals.num_readings)
            recipe = fit_recipe(profile(cloze), budget)
            if "pet" in recipe.sections:  # label words of several tokens take longer
                cloze = self._select(cloze, proposals, splits.train, profile(cloze))
                recipe = fit_recipe(profile(cloze), budget)
        notes = self._notes(recipe, len(splits.unlabeled), language, encoders, cloze, budget)
        if len(task.fields) > 1:
            subject = "how the two texts relate" if relates_texts else "what the texts are about"
            notes.insert(1, f"The labels seem to say {subject}.")
        for note in notes:
            self.terminal.say("recipe", note)
        self._check_free(output)  # again: the scores may have taken minutes
        header = [*_header(recipe.sections, profile(cloze).workload, shlex.quote(str(output))), *notes]
        with self.terminal.open_output(output) as file:
            file.write(
                recipe_writer.recipe_text(
                    with_relative_paths(recipe.sections, output.parent), header, data.comments(options.shots)
                )
            )
        return output

    def _problem_type(self, file: LabeledFile, label: str) -> ProblemType:
        """Returns whether a text has one label or several.

        Raises:
            InputError: a text has several, and a flag is for one.
        """
        if not file.has_label_sets(label):
            if self.options.label_bias == "frequencies":
                raise InputError(
                    "--label-bias frequencies is for several labels per text.", "Set --label-bias macro_f1."
                )
            if separator := file.guess_separator(label):
                flag = f"--label-separator {shlex.quote(separator)}"
                self.terminal.say("warning", f"{label!r} may have several labels per text. If so, set {flag}.")
            return ORDINAL if self.options.ordered_labels else SINGLE_LABEL
        options = self.options
        for_one_label = {
            "--shots": options.shots is not None,
            "--conflicts soft": options.conflicts == "soft",
            "--class-weights": options.class_weights != "none",
            "--backbone": options.backbone not in (None, NONE),
            "--label-words": bool(options.label_words),
            "--describe": bool(options.descriptions),
            "--ordered-labels": bool(options.ordered_labels),
        }
        for flag, is_set in for_one_label.items():
            if is_set:
                raise InputError(f"{label!r} has several labels per text, but {flag} is for one.", f"Remove {flag}.")
        return MULTI_LABEL

    def _default_label_bias(self, data: TaskData) -> LabelBias:
        """Returns the bias for labels of these frequencies. A sample of shots has the same number of each label.

        With more than two labels accuracy still says something, and a bias for rare labels lowers it. If a text has
        several labels, the bias is the threshold of each.
        """
        if data.train.has_label_sets:
            return "frequencies"
        counts = data.train.counts
        is_useful = len(counts) == 2 and data_table.is_imbalanced(counts) and not self.options.shots
        return "macro_f1" if is_useful else "none"

    def _language(self, data: TaskData) -> Language:
        if self.options.language:
            return self.options.language
        rows = [row for item in (data.train, *data.unlabeled) for row in item.texts[:MAX_MEASURED]]
        return detect_language(" ".join(row.values()) for row in rows)

    def _parse_encoder(self, ref: str) -> str | None:
        """Returns the reference of an encoder; None: the default."""
        if ref == DEFAULT:
            return None
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

    def _encoders(self, encoder: str | None, language: Language, lengths: Lengths) -> dict[str, dict[str, Any]]:
        """Returns name -> encoder."""
        if encoder is None:
            chosen = default_encoders(language)
            return {name: encoder_section(model, self.options.assets, lengths) for name, model in chosen.items()}
        with with_flag_hint(), self.terminal.progress(self.terminal.console) as on_start:
            fetch({"students.small.asset": encoder}, on_start, models=("students.small.asset",))
        length = lengths.max_length
        num_positions = folder_max_positions(model_folder(encoder))
        return {"small": {"asset": encoder, "max_length": min(length, num_positions or length)}}

    def _cloze(self, file: LabeledFile, data: TaskData, columns: Sequence[str], language: Language) -> Cloze:
        """Chooses the language model, which is not downloaded yet, and proposes patterns."""
        options, is_pair = self.options, len(columns) > 1
        asset, missing = None, "a language model answers with one label per text"
        if not data.train.has_label_sets:
            default = default_backbone(language, is_pair=is_pair)
            asset = choose_backbone(self.terminal, options.backbone, default, options.assets)
            missing = "" if asset else "no language model is set"
        family = family_of_backbone(asset)
        sample = [" ".join(row.values()) for row in data.train.texts[:MAX_MEASURED]]
        proposed = proposed_patterns(family, is_pair=is_pair, is_chinese=is_chinese(sample))
        terminal = self.terminal if asset else replace(self.terminal, ask=None)
        own = choose_patterns(terminal, options.patterns, proposed, [*fields_of(columns), *file.columns], family)
        return Cloze(patterns=own or proposed, has_own_patterns=bool(own), asset=asset, missing=missing)

    def _propose(self, cloze: Cloze, task: Task, examples: Sequence[Example], *, is_pair: bool) -> Proposals:
        """Downloads the language model, and proposes label words that it knows."""
        assert cloze.asset is not None
        backbone = Backbone.load(self.terminal, cloze.asset).with_max_length(task, examples)
        names = label_words.words_of_names(task.labels, backbone.tokenizer, backbone.family)
        descriptions = descriptions_by_label(self.options.descriptions, task.labels)
        words = choose_label_words(self.terminal, self.options.label_words, names, backbone)
        described = label_words.words_of_descriptions(descriptions, names, backbone.tokenizer, backbone.family)
        if descriptions and not backbone.are_valid(described):
            self.terminal.say("warning", "the descriptions (--describe) have no label word for some label.")
        return Proposals(
            task=task,
            backbone=backbone,
            names=names,
            described=described if descriptions else {},
            words=words,
            has_own_patterns=cloze.has_own_patterns,
            is_pair=is_pair,
        )

    def _select(
        self, cloze: Cloze, proposals: Proposals, train_set: Sequence[Example], profile: RecipeProfile
    ) -> Cloze:
        """Selects patterns and label words by the labeled examples."""
        task, backbone = proposals.task, proposals.backbone
        if self.options.score:
            assert profile.backbone is not None
            labeled = list(train_set)
            python_rng(0, "init").shuffle(labeled)
            number = num_scored(profile.backbone, len(task.patterns), profile.workload)
            kept, missing = select(proposals, labeled[:number], self.terminal)
        else:
            kept = proposals.first()
            missing = "" if kept else NO_WORDS
        if not kept:
            return replace(cloze, asset=None, missing=missing)
        patterns = {item.pattern: task.patterns[item.pattern] for item in kept}
        verbalizer = verbalizer_of(kept, task.labels)
        selected = Task(name=task.name, labels=task.labels, patterns=patterns, verbalizer={**verbalizer})
        with with_flag_hint():
            models.check_scoring(selected, list(patterns), backbone.config)
        return replace(cloze, patterns=patterns, verbalizer=verbalizer, num_readings=backbone.num_readings(selected))

    def _draw(self, task: Task, data: TaskData) -> tuple[dict[str, Any], Split]:
        """Returns the section `data`, and draws the splits as the run will draw them, which checks all files."""
        shots, test_size = self.options.shots, self.options.test_size
        if data.test is None and test_size is None:
            default = data.default_test_size(shots)
            test_size = self.terminal.ask_or_default("Test examples", None, str(default), parse_count)
        seed = derive_seed(SEED, f"data/{task.name}")
        while True:
            section = data.section(shots, test_size)
            sets = DataConfig.model_validate({**section, "unlabeled_size": UNLABELED_SIZES[0]})
            config = SplitsConfig.of(task, data=sets, fields=task.fields, seed=seed)
            try:
                return section, sample_splits(config)
            except DataError as error:
                # the test set is drawn from the pool first, from all classes together: it may take too much of one
                is_free = self.options.test_size is None and error.key == "data.shots"
                if not is_free or test_size is None or test_size == 1:
                    with with_flag_hint():
                        raise
                test_size = test_size * 3 // 4

    def _notes(
        self,
        recipe: FittedRecipe,
        num_unlabeled: int,
        language: Language,
        encoders: Mapping[str, Mapping[str, Any]],
        cloze: Cloze,
        budget: float,
    ) -> list[str]:
        """Returns what decided on the recipe: for the terminal, and for the comment at its top."""
        used = " and ".join(_short_name(item["asset"]) for item in encoders.values())
        notes = [f"Language: {language} (--language). Encoders: {used}."]
        if 0 < num_unlabeled < (required := min_unlabeled(len(recipe.sections["task"]["labels"]))):
            notes.append(
                f"No students: {num_unlabeled:,} unlabeled texts are too few (minimum: {required:,}; --unlabeled "
                "FILE). The best supervised classifier is used."
            )
        if cloze.missing:
            notes.append(f"No PET: {cloze.missing}.")
        estimate = f"Estimated time on two cores: {format_duration(recipe.seconds)}"
        limit = f"the budget of {format_duration(budget)} (--budget)"
        reduced = f" Left out or reduced: {', '.join(recipe.left_out)}." if recipe.left_out else ""
        return [*notes, f"{estimate}, {'more than' if recipe.seconds > budget else 'within'} {limit}.{reduced}"]

    def _check_free(self, path: Path) -> None:
        if not os.access(path.parent, os.W_OK):
            state = "cannot be written" if path.parent.is_dir() else "is not a folder"
            raise InputError(f"{path.parent} {state}.", "Set --output to a file in another folder.")
        if path.exists() and not self.options.force:
            raise InputError(f"{path} exists.", "Set --output to another file, or overwrite it with --force.")


def _short_name(asset: str) -> str:
    """Returns the name of a model for a message: on the hub, if it is one of the defaults."""
    known = {reference: model.hub for model in MODELS for reference in (model.asset, model.hub_asset)}
    return known.get(asset, asset).rpartition("/")[2]


def _profile(
    task: Task,
    section: Mapping[str, Any],
    splits: Split,
    cloze: Cloze,
    encoders: Mapping[str, Mapping[str, Any]],
    lengths: Lengths,
) -> RecipeProfile:
    backbone = cloze.backbone
    length = backbone.config.max_length if backbone else lengths.max_length
    return RecipeProfile(
        name=task.name,
        labels=task.labels,
        problem_type=task.problem_type,
        patterns=cloze.kept,
        has_two_texts=len(task.fields) > 1,
        has_own_patterns=cloze.has_own_patterns,
        verbalizer=cloze.verbalizer,
        data=section,
        encoders=encoders,
        backbone={"asset": cloze.asset, "max_length": length} if cloze.asset else None,
        counts=count_labels(splits.train),
        analyzer=lengths.analyzer,
        workload=Workload(
            lengths=lengths,
            num_readings=cloze.num_readings,
            num_labeled=len(splits.train),
            num_unlabeled=len(splits.unlabeled),
            num_test=len(splits.test),
        ),
    )


def _header(sections: Mapping[str, Any], workload: Workload, path: str) -> list[str]:
    count = unlabeled_used(sections, workload)
    unlabeled = f" and {count:,} unlabeled" if count else ""
    return [
        f"{workload.num_labeled:,} labeled{unlabeled} examples -> a small classifier.",
        "Written by clozeline init. docs/reference/recipe.md describes all keys.",
        f"Check it with `clozeline plan {path}`, run it with `clozeline run {path}`.",
    ]
