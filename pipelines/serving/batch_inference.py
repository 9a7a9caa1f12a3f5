"""`clozeline predict`: labels the rows of a file, in order, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from pipelines.serving.drift import MAX_CHARACTERS, MAX_TEXTS
from pipelines.serving.highlight import decisive_words
from pipelines.serving.input_rows import ROWS_AT_ONCE, InputRow, InputRows
from pipelines.serving.output_rows import HIGHLIGHT, LABEL, PROBABILITIES, Answer
from pipelines.serving.predictors import TASK, ClassifierPredictor, Predictor
from stages.common.data.sources import column
from stages.common.errors import DataError, InputError

Item = TypeVar("Item")
FieldColumns = Mapping[str, Mapping[str, Sequence[str]]]
"""Task -> field -> columns that may have it. The only task of a classifier has an empty name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerOptions:
    """Which answers to give.

    Args:
        top_k: Number of labels, the most likely first, whose probabilities are kept; None: all.
        threshold: Probability below which a label is not given. With several labels per text, all labels whose
            probability is not below it are given.
        abstain_label: What is given instead of no label.
        is_strict: Stop at the first row that cannot be labeled.
        has_highlight: Give the words that decided, too.
    """

    top_k: int | None = None
    threshold: float | None = None
    abstain_label: str | None = None
    is_strict: bool = False
    has_highlight: bool = False


class RowLabeler:
    """Labels rows block by block, and counts those that are rejected.

    Args:
        predictor: The model.
        columns: The columns that may have a field. The column with the name of the field may always.
        options: Which answers to give.
        on_rejected: Called with the location and the error of each row that cannot be labeled.

    Raises:
        InputError: the options need probabilities, which the model does not have.
    """

    def __init__(
        self,
        predictor: Predictor[Any],
        columns: FieldColumns,
        options: AnswerOptions,
        on_rejected: Callable[[DataError], None],
    ) -> None:
        if PROBABILITIES not in predictor.answers and (options.top_k, options.threshold) != (None, None):
            raise InputError("this model predicts no probabilities.", "Remove --top-k and --threshold.")
        if options.has_highlight and not isinstance(predictor, ClassifierPredictor):
            raise InputError("only the words of a classifier can be highlighted.", "Remove --highlight.")
        if options.has_highlight and isinstance(predictor, ClassifierPredictor) and predictor.gives_label_sets:
            raise InputError("the words of one label are highlighted, but a text has several.", "Remove --highlight.")
        self._predictor = predictor
        self._columns = columns
        self._options = options
        self._on_rejected = on_rejected
        self.num_answered = 0
        self.num_rejected = 0
        self._first_error: DataError | None = None
        self.sample: list[tuple[str, float]] = []
        """The first texts of a classifier, at most `MAX_TEXTS`, cut, with the confidence in their labels."""

    def label(self, rows: InputRows, name: str) -> Iterator[list[Answer]]:
        """Yields blocks of answers: one per row, in order.

        Raises:
            DataError: a table has no column for a field; no row can be labeled; or, if the options are strict, one of
                them cannot.
        """
        self._check_columns(rows, name)
        has_columns = rows.format != "lines"
        for block in blocks(rows.rows):
            parsed = [self._parse(row) for row in block]
            items = [item for item in parsed if not isinstance(item, DataError)]
            predicted = self._predictor.predict(items) if items else []
            predictions = iter([self._observed(*pair) for pair in zip(items, predicted, strict=True)])
            answers = [
                Answer(row.values if has_columns else {}, {}, item)
                if isinstance(item, DataError)
                else Answer(row.values if has_columns else {}, self._selected(next(predictions)))
                for row, item in zip(block, parsed, strict=True)
            ]
            self.num_answered += sum(answer.error is None for answer in answers)
            yield answers
        if self._first_error is not None and not self.num_answered:
            error = self._first_error
            raise DataError(f"no row can be labeled: {error.problem}", error.remedy, where=error.where)

    def _observed(self, item: Any, prediction: dict[str, Any]) -> dict[str, Any]:
        """Keeps a text of a classifier in the sample, and returns the prediction with the words that decided."""
        predictor = self._predictor
        if not isinstance(predictor, ClassifierPredictor):
            return prediction
        if len(self.sample) < MAX_TEXTS:
            text = " ".join(item.fields.values())[:MAX_CHARACTERS]
            self.sample.append((text, predictor.confidence(prediction)))
        if not self._options.has_highlight:
            return prediction
        label = prediction[LABEL]
        words = decisive_words(predictor, item, label, prediction[PROBABILITIES][label])
        return {**prediction, HIGHLIGHT: words}

    def _parse(self, row: InputRow) -> Any:
        """Returns the item of a row, or the error for which it is rejected."""
        try:
            if row.error is not None:
                raise row.error
            return self._predictor.parse_row(self._with_fields(row.values), row.location)
        except DataError as error:
            located = DataError(error.problem, error.remedy, where=row.location)
            if self._options.is_strict:
                raise located from error
            self.num_rejected += 1
            self._first_error = self._first_error or located
            self._on_rejected(located)
            return located

    def _with_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a row, and its fields from the first of their columns that the row has."""
        task = values.get(TASK)
        if len(self._columns) == 1:
            (task,) = self._columns
        by_field = self._columns.get(task, {}) if isinstance(task, str) else {}
        return {**values, **fields_of(values, by_field)}

    def _check_columns(self, rows: InputRows, name: str) -> None:
        if rows.columns is None or self._predictor.kind != "classifier":
            return
        (task,) = self._predictor.tasks
        known = self._columns.get(task, {})
        check_columns(rows.columns, {field: known.get(field, ()) for field in self._predictor.tasks[task]}, name)

    def _selected(self, prediction: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        if PROBABILITIES not in prediction or (options.threshold is None and options.top_k is None):
            return prediction
        by_label = prediction[PROBABILITIES]
        selected = dict(prediction)
        if options.threshold is not None:
            given = [label for label, probability in by_label.items() if probability >= options.threshold]
            if isinstance(prediction[LABEL], list):
                selected[LABEL] = given or ([] if options.abstain_label is None else [options.abstain_label])
            elif not given:
                selected[LABEL] = options.abstain_label
        if options.top_k is not None:
            selected[PROBABILITIES] = dict(sorted(by_label.items(), key=lambda item: -item[1])[: options.top_k])
        return selected


def fields_of(values: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns each field from the first of its columns that the row has; a dotted name is a path into objects."""
    fields = {}
    for field, names in columns.items():
        for name in names:
            try:
                fields[field] = column(values, name, "")
            except DataError:
                continue
            break
    return fields


def check_columns(header: Sequence[str], columns: Mapping[str, Sequence[str]], name: str) -> None:
    """Checks that a table has a column for each field.

    Raises:
        DataError: it does not; names the columns that it has.
    """
    for field, names in columns.items():
        if not {part for item in (*names, field) for part in (item, item.partition(".")[0])} & {*header}:
            expected = " or ".join(repr(item) for item in dict.fromkeys((*names, field)))
            raise DataError(
                f"there is no column {expected} for the field {field!r}.",
                f"Set --column {field}=COLUMN to one of: {', '.join(header)}.",
                where=name,
            )


def blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yields the items in lists of at most `ROWS_AT_ONCE`."""
    iterator = iter(items)
    while block := list(islice(iterator, ROWS_AT_ONCE)):
        yield block
