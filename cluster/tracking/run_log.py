"""One MLflow run that is being written: params, curves, pictures, tables and data, in few calls."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.masking import masked, masked_values
from cluster.tracking.data_inputs import Dataset
from cluster.tracking.mlflow_names import file_of, key_of, text_of
from cluster.tracking.recorder import Batch, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient

FLUSH_EVERY_S = 2.0
MAX_PARAMS, MAX_METRICS = 100, 1000
MAX_DESCRIPTION = 5000


class RunLog:
    """One MLflow run that is being written.

    Args:
        client: Of the server, or the database, that has the run.
        run_id: The run; it exists.
        tables: Files of the tables that it has already, when it is continued.
    """

    def __init__(self, client: MlflowClient, run_id: str, tables: Iterable[str] = ()) -> None:
        self.run_id = run_id
        self._client = client
        self._points: list[Point] = []
        self._data: set[Dataset] = set()
        self._tables = set(tables)
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Dotted names and plain values; long values are cut."""
        self.log(params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures of one moment."""
        when = time.time_ns() // 1_000_000
        self.log(points=[Point(name, value, step, when) for name, value in metrics.items()])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags, for searching."""
        self.log(tags=tags)

    def describe(self, markdown: str) -> None:
        """The description at the top of the run's page; whole lines, as many as MLflow keeps."""
        kept = markdown
        while len(kept) > MAX_DESCRIPTION:
            kept = kept[: max(0, kept.rstrip("\n").rfind("\n"))]
        self.log(tags={"mlflow.note.content": kept})

    def log_figure(self, name: str, figure: Figure) -> None:
        """A picture; `name` has no extension."""
        self._client.log_figure(self.run_id, figure, f"figures/{file_of(name)}.png")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, as it is."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """A text file; `name` has its extension."""
        self._client.log_text(self.run_id, masked(text), name)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same keys; `name` has no extension. Shown as a table, in place of one of that name."""
        if not rows:
            return
        path = f"tables/{file_of(name)}.json"
        columns = {key: [masked_values(row.get(key)) for row in rows] for key in rows[0]}
        if path in self._tables:  # MLflow would add the rows to those that are there
            from pandas import DataFrame

            self._client.log_text(self.run_id, DataFrame(columns).to_json(orient="split", index=False), path)
        else:
            self._tables.add(path)
            self._client.log_table(self.run_id, columns, path)

    def log_datasets(self, datasets: Iterable[Dataset]) -> None:
        """The data that the run reads or makes; each is logged once, however often it is given."""
        new = [item for item in datasets if item not in self._data]
        if new:
            self._data.update(new)
            self._client.log_inputs(self.run_id, [item.entity() for item in new])

    def take(self, batch: Batch) -> None:
        """What a worker sent. Points wait until two seconds' worth are together."""
        self._points += batch.points
        for name, png in batch.figures:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"{file_of(Path(name).name)}.png")
                path.write_bytes(png)
                parent = Path("figures", file_of(name)).parent
                self.log_artifact(path, str(parent))
        for name, rows in batch.tables:
            self.log_table(name, rows)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes the points that wait."""
        points, self._points = self._points, []
        self._flushed = time.monotonic()
        self.log(points=points)

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self.flush()
        self._client.set_terminated(self.run_id, status)

    def log(
        self,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """As few calls as MLflow's limits allow; none for nothing."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key_of(item.name), item.value, item.when_ms, item.step) for item in points]
        values = {
            key_of(name): text_of(value) for name, value in (params or {}).items()
        }  # two odd names may become one
        pairs = [Param(name, value) for name, value in values.items()]
        marks = [RunTag(name, masked(value)) for name, value in (tags or {}).items()]
        while metrics or pairs or marks:
            self._client.log_batch(self.run_id, metrics[:MAX_METRICS], pairs[:MAX_PARAMS], marks[:MAX_PARAMS])
            metrics, pairs, marks = metrics[MAX_METRICS:], pairs[MAX_PARAMS:], marks[MAX_PARAMS:]
