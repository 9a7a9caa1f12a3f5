"""What MLflow loads a registered model with. It calls `_load_pyfunc` by its name, from the code beside the model.

Neither mlflow nor anything of `cluster` is imported here: the model carries `pipelines` and `stages` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.serving import labelling
from stages.errors import DataError

if TYPE_CHECKING:
    import pandas

ROWS_AT_ONCE = 512


class Answering:
    """A model as MLflow calls it: a table in, a table out."""

    def __init__(self, labeller: labelling.Labeller[Any]) -> None:
        self.labeller = labeller

    def predict(
        self, model_input: pandas.DataFrame | Sequence[str | dict[str, Any]], params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """[n] rows with `label` and `probabilities`, in the order of the input.

        Args:
            model_input: A table with a column for each field, or its rows; plain texts, where there is a single field.
            params: None are known.

        Raises:
            DataError: a field is missing, empty or not text; names the row.
        """
        import pandas

        del params
        rows = model_input.to_dict("records") if isinstance(model_input, pandas.DataFrame) else list(model_input)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = [self._read(row, number) for number, row in enumerate(rows[start : start + ROWS_AT_ONCE], start)]
            answers += self.labeller.answer(block)
        return pandas.DataFrame(answers)

    def _read(self, row: Any, number: int) -> Any:
        field = self.labeller.plain_field()
        try:
            return self.labeller.read({field: row} if field is not None and isinstance(row, str) else row, str(number))
        except DataError as error:
            raise DataError(error.problem, error.remedy, where=f"row {number}") from None


def _load_pyfunc(path: str) -> Answering:
    return Answering(labelling.load([Path(path)]))
