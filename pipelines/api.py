"""The Python API, for notebooks: `clozeline.fit(train, unlabeled).predict(texts)`.

Each function does what a command does, with the same code and the same store: `fit` is `init` and `run`, `load` finds
the model that `predict` and `serve` use. Texts are lists, pandas objects or datasets of the Hugging Face library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas
from numpy.typing import NDArray

from cluster.errors import ClusterError
from cluster.run.result import RunOptions
from pipelines.cli.views.progress_display import OutputMode, select_output_mode
from pipelines.cli.views.terminal import open_output
from pipelines.export.exporter import ExportOptions, export_classifier
from pipelines.init.budget import DEFAULT_BUDGET
from pipelines.init.interaction import Interaction
from pipelines.init.wizard import InitOptions, InitWizard
from pipelines.labeling.select import select_texts
from pipelines.run.request import load_request
from pipelines.run.runner import run_recipe
from pipelines.serving.batch_inference import AnswerOptions, RowLabeler
from pipelines.serving.input_rows import InputRow, InputRows
from pipelines.serving.model_lookup import ModelChoice, ModelSource, find_model
from pipelines.serving.output_rows import LABEL, PROBABILITIES, Answer, AnswerColumns
from pipelines.serving.predictors import Predictor
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.assets.references import apply_offline
from stages.common.engine import ENGINE
from stages.common.errors import DataError, InputError

Texts: TypeAlias = Any
"""Plain texts (a list, an array or a Series), or rows with named columns (a list of mappings, a DataFrame or a
`datasets.Dataset`).
"""
TEXT_COLUMN, LABEL_COLUMN = "text", "label"
STORE = "store"


class RunFailedError(Exception):
    """Steps of a run failed. The message has the error of the first one, and the path of its log."""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A classifier of a run: the one that the report selects, or another row of the leaderboard.

    Args:
        recipe: Name or file of the recipe, or the folder of a model.
        store: The store of its results.
        overrides: The overrides with which it was run.
        row: Row of the leaderboard; None: the one that the report selects.
    """

    recipe: str
    store: str = STORE
    overrides: tuple[str, ...] = ()
    row: str | None = None
    _source: ModelSource = field(repr=False)

    @cached_property
    def _predictor(self) -> Predictor[Any]:
        return self._source.load()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the columns of `predict_proba`."""
        (labels,) = self._predictor.labels.values()
        return labels

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it reads."""
        (fields,) = self._predictor.tasks.values()
        return fields

    def predict(self, texts: Texts, *, threshold: float | None = None, abstain_label: str | None = None) -> Any:
        """Labels texts.

        Args:
            texts: The texts. Rows are read from the columns that the recipe names, or from columns with the names of
                the fields.
            threshold: Probability below which a text gets no label. In multi-label classification, the text gets all
                labels whose probability is not below it.
            abstain_label: What it gets instead.

        Returns:
            A list of labels for a list or an array; a Series with the same index for a Series; a copy with the columns
            `label` and `probabilities.LABEL` for a DataFrame or a Dataset. In multi-label classification, each label is
            a list of labels.

        Raises:
            DataError: a text is missing or empty; names the row.
        """
        options = AnswerOptions(threshold=threshold, abstain_label=abstain_label, is_strict=True)
        answers = self._answers(texts, options)
        if isinstance(texts, pandas.DataFrame) or _is_dataset(texts):
            columns = AnswerColumns(self._predictor, None)
            rows = [{**columns.flat(answer), LABEL: answer.prediction[LABEL]} for answer in answers]
            if _is_dataset(texts):
                return type(texts).from_list(rows)
            kept = [columns.kept(str(name)) for name in texts.columns]
            names = [*kept, *(name for name in columns.names() if name != "error")]
            return pandas.DataFrame(rows, index=texts.index, columns=list(dict.fromkeys(names)))
        labels = [answer.prediction[LABEL] for answer in answers]
        return pandas.Series(labels, index=texts.index, name=LABEL) if isinstance(texts, pandas.Series) else labels

    def predict_proba(self, texts: Texts) -> NDArray[np.float64]:
        """Returns the probabilities, [n, C], of the labels in the order of `labels`.

        Raises:
            DataError: a text is missing or empty; names the row.
        """
        answers = self._answers(texts, AnswerOptions(is_strict=True))
        return np.array([[answer.prediction[PROBABILITIES][label] for label in self.labels] for answer in answers])

    @property
    def report(self) -> dict[str, Any]:
        """The report of the recipe: leaderboard, classifier to use, suggestions.

        Raises:
            InputError: it was not run with this store.
        """
        request = load_request(self.recipe, list(self.overrides), self.store)
        path = request.store.local / "reports" / request.config.name / "report.json"
        if not path.exists():
            raise InputError(f"{path} does not exist.", "Run the recipe: clozeline.run(RECIPE).")
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report

    def export(self, folder: str | Path, *, onnx: bool = True, licenses: Mapping[str, str] | None = None) -> Path:
        """Writes it to a new folder that transformers and onnxruntime load, and returns the folder.

        Args:
            folder: The folder; it must not exist.
            onnx: Whether to write ONNX files, which need the extra `onnx`.
            licenses: Key of the recipe -> license of this model or data set, for the model card.
        """
        request = load_request(self.recipe, list(self.overrides), self.store)
        options = ExportOptions(row=self.row, onnx=onnx, licenses=licenses or {})
        return export_classifier(request, options, Path(folder)).folder

    def _answers(self, texts: Texts, options: AnswerOptions) -> list[Answer]:
        predictor = self._predictor
        columns = {task: self._source.columns.get(task, {}) for task in predictor.tasks}
        labeler = RowLabeler(predictor, columns, options, lambda error: None)
        rows = InputRows("jsonl", _input_rows(texts, predictor.plain_field()))
        return [answer for block in labeler.label(rows, "texts") for answer in block]


def fit(
    train: Texts,
    unlabeled: Texts | None = None,
    *,
    test: Texts | None = None,
    folder: str | Path = "clozeline",
    overrides: Sequence[str] = (),
    progress: bool = True,
    **options: Any,
) -> Classifier:
    """Writes a recipe for labeled and unlabeled texts, runs it, and returns its classifier: `init`, then `run`.

    Args:
        train: Labeled texts: a list of (text, label) pairs or mappings, a DataFrame or a Dataset. Lists of labels make
            a multi-label classifier: ("Some text.", ["sports", "money"]).
        unlabeled: Texts without labels, as many as there are.
        test: Labeled texts of the test set. Default: some of `train`.
        folder: Gets the files of the texts, the recipe and the store. The same texts in the same folder are not
            trained on twice.
        overrides: Keys of the recipe to change, such as "distill.training.epochs=3".
        progress: Whether to print progress and leaderboard.
        options: More options of `init`.

    Raises:
        InputError: the texts or an option are wrong.
        RunFailedError: a step failed.
    """
    recipe = init(train, unlabeled, test=test, folder=folder, progress=progress, **options)
    return run(recipe, overrides=overrides, store=Path(folder) / STORE, progress=progress)


def init(
    train: Texts,
    unlabeled: Texts | None = None,
    *,
    test: Texts | None = None,
    folder: str | Path = "clozeline",
    text: str | None = None,
    label: str | None = None,
    label_separator: str | None = None,
    ordered_labels: Sequence[str] = (),
    label_words: Sequence[str] = (),
    patterns: Sequence[str] = (),
    language: Any = None,
    backbone: str | None = None,
    student: str | None = None,
    budget: str = DEFAULT_BUDGET,
    score: bool = True,
    progress: bool = True,
) -> Path:
    """Writes a recipe for labeled and unlabeled texts, as the command `init` does, and returns its path.

    Args:
        train: Labeled texts: a list of (text, label) pairs or mappings, a DataFrame or a Dataset. Lists of labels make
            a multi-label classifier: ("Some text.", ["sports", "money"]).
        unlabeled: Texts without labels.
        test: Labeled texts of the test set. Default: some of `train`.
        folder: Gets the files of the texts and the recipe, which are overwritten.
        text: Column of the text. Default: recognized.
        label: Column of the label. Default: recognized.
        label_separator: Text between the labels of a cell, such as ";", if a text has several. Lists are recognized.
        ordered_labels: All labels from low to high, if they are ordered.
        label_words: Words that represent a label, as LABEL=WORD,WORD.
        patterns: Cloze templates, as NAME=TEXT.
        language: Language of the texts, such as "en". Default: detected.
        backbone: Reference of the language model, or "none". Default: by language and form of the texts.
        student: Reference of the encoder. Default: by the language.
        budget: Time that the recipe may take on two cores, such as "30m".
        score: Whether to select patterns by the labeled examples.
        progress: Whether to print what was read.

    Raises:
        InputError: the texts or an option are wrong.
    """
    apply_offline()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        name: _write_rows(rows, folder / f"{name}.jsonl", is_labeled=name != "unlabeled")
        for name, rows in (("train", train), ("unlabeled", unlabeled), ("test", test))
        if rows is not None
    }
    init_options = InitOptions(
        data=files["train"], unlabeled=[files["unlabeled"]] if "unlabeled" in files else (), test=files.get("test"),
        output=folder / "recipe.yaml", text=text, label=label, label_separator=label_separator,
        ordered_labels=",".join(map(str, ordered_labels)) or None,
        label_words=label_words, patterns=patterns,
        language=language, backbone=backbone, student=student, budget=budget, score=score, force=True,
    )  # fmt: skip
    mode = _output_mode(progress)
    terminal = Interaction(console=mode.console, ask=None, open_output=open_output, progress=mode.progress)
    return InitWizard(init_options, terminal).write_recipe()


def run(
    recipe: str | Path, *, overrides: Sequence[str] = (), store: str | Path = STORE, progress: bool = True
) -> Classifier:
    """Runs a recipe, as the command `run` does, and returns the classifier that its report selects.

    Args:
        recipe: Name or file of the recipe.
        overrides: Keys of the recipe to change, such as "distill.training.epochs=3".
        store: Folder or URL of the results.
        progress: Whether to print progress and leaderboard.

    Raises:
        InputError: the recipe is wrong; no step was run.
        RunFailedError: a step failed.
    """
    apply_offline()
    request = load_request(str(recipe), list(overrides), store)
    result = run_recipe(request, RunOptions(engine=ENGINE, identify=IDENTIFY, locate=LOCATE), _output_mode(progress))
    if result.is_interrupted:
        raise KeyboardInterrupt
    if not result.ok:
        name, error = next(iter(result.errors.items()))
        raise RunFailedError(f"step {name} failed: {error.error} Log: {error.log}")
    return load(recipe, overrides=overrides, store=store)


def load(
    recipe: str | Path, *, overrides: Sequence[str] = (), store: str | Path = STORE, row: str | None = None
) -> Classifier:
    """Returns the classifier of a recipe that was run, or of a folder that `export` wrote.

    Args:
        recipe: Name or file of the recipe, or the folder.
        overrides: The overrides with which it was run.
        store: The store with its results.
        row: Row of the leaderboard. Default: the report selects it.

    Raises:
        InputError: the recipe was not run with this store, or has no such row.
    """
    apply_offline()
    source = find_model(str(recipe), list(overrides), store, ModelChoice(row=row))
    return Classifier(recipe=str(recipe), store=str(store), overrides=tuple(overrides), row=row, _source=source)


def select(
    recipe: str | Path,
    number: int = 20,
    *,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    store: str | Path = STORE,
) -> Path:
    """Adds the unlabeled texts that are worth labeling next to a file, as the command `select` does; returns its path.

    Args:
        recipe: Name or file of the recipe.
        number: Texts to add.
        output: The file. Default: the one that the recipe names, or RECIPE.labels.csv next to the recipe.
        overrides: The overrides of the run.
        store: The store with its results. Without results, the texts are chosen that are typical of all.

    Raises:
        InputError: the recipe has no unlabeled texts, or all of them are in the file.
    """
    apply_offline()
    request = load_request(str(recipe), list(overrides), store)
    return select_texts(request, number, None if output is None else Path(output)).path


def _output_mode(progress: bool) -> OutputMode:
    return select_output_mode(as_json=False, is_quiet=not progress)


def _is_dataset(texts: Texts) -> bool:
    """Returns True for a `datasets.Dataset`, without an import of this large library."""
    return type(texts).__module__.partition(".")[0] == "datasets"


def _rows(texts: Texts) -> Iterator[Any]:
    """Yields texts, tuples or mappings."""
    if isinstance(texts, pandas.DataFrame):
        yield from texts.to_dict("records")
    elif isinstance(texts, str | Mapping):
        raise InputError("texts is a single text.", 'Pass a list: ["Some text."].')
    else:
        yield from texts


def _input_rows(texts: Texts, plain_field: str | None) -> Iterator[InputRow]:
    for number, row in enumerate(_rows(texts)):
        location = f"row {number}"
        if isinstance(row, Mapping):
            yield InputRow(location, {str(name): value for name, value in row.items()})
        elif plain_field is not None:
            yield InputRow(location, {plain_field: row})
        else:
            error = DataError("the classifier reads several fields.", "Pass mappings or a DataFrame.", where=location)
            yield InputRow(location, {}, error)


def _write_rows(texts: Texts, path: Path, *, is_labeled: bool) -> str:
    """Writes texts as JSON lines, and returns the path.

    Raises:
        DataError: a row of labeled texts has no label.
    """
    with open_output(path) as file:
        for number, row in enumerate(_rows(texts)):
            if isinstance(row, Mapping):
                values = {str(name): None if _is_missing(value) else value for name, value in row.items()}
            elif not is_labeled:
                values = {TEXT_COLUMN: row}
            elif isinstance(row, tuple | list) and len(row) == 2:
                values = {TEXT_COLUMN: row[0], LABEL_COLUMN: row[1]}
            else:
                raise DataError(
                    "a labeled text is not a pair.", 'Pass pairs ("Some text.", "label"), mappings or a DataFrame.',
                    where=f"row {number}",
                )  # fmt: skip
            file.write(json.dumps(values, ensure_ascii=False, default=_plain) + "\n")
    return str(path)


def _is_missing(value: Any) -> bool:
    return value is None or bool(pandas.api.types.is_scalar(value) and pandas.isna(value))


def _plain(value: Any) -> Any:
    """Returns the Python value of a NumPy number or array, a list for a set, and the text of anything else."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


__all__ = ["Classifier", "ClusterError", "InputError", "RunFailedError", "fit", "init", "load", "run", "select"]
