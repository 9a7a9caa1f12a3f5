"""MLflow loads registered models with this module: it calls `_load_pyfunc` from the code stored with the model.

Never imports `mlflow` or `cluster`: a registered model contains only `pipelines` and `stages`. Registered models name
this module, so its path must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas

from pipelines.serving.loading import load_predictor
from pipelines.serving.predictors import Predictor
from stages.common.errors import DataError

ROWS_AT_ONCE = 512


class PyfuncModel:
    """The interface that MLflow calls: a table in, a table out."""

    def __init__(self, predictor: Predictor[Any]) -> None:
        self.predictor = predictor

    def predict(
        self, model_input: pandas.DataFrame | Sequence[str | dict[str, Any]], params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """Returns [n] rows with `label` and `probabilities`, in the order of the input.

        Args:
            model_input: A table with a column per field, its rows, or plain texts if the model has a single field.
            params: Ignored.

        Raises:
            DataError: a field is missing, empty or not text; names the row.
        """
        del params
        rows = model_input.to_dict("records") if isinstance(model_input, pandas.DataFrame) else list(model_input)
        predictions: list[dict[str, Any]] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = [self._read(row, number) for number, row in enumerate(rows[start : start + ROWS_AT_ONCE], start)]
            predictions += self.predictor.predict(block)
        return pandas.DataFrame(predictions)

    def _read(self, row: Any, number: int) -> Any:
        field = self.predictor.plain_field()
        try:
            return self.predictor.parse_row(
                {field: row} if field is not None and isinstance(row, str) else row, str(number)
            )
        except DataError as error:
            raise DataError(error.problem, error.remedy, where=f"row {number}") from None


def _load_pyfunc(path: str) -> PyfuncModel:
    return PyfuncModel(load_predictor([Path(path)]))
