"""Writes records to an MLflow server, so that a record that is written twice has the effect of one.

A driver may be killed after MLflow has stored a record and before it knows. MLflow itself ignores metrics, parameters,
tags, files and datasets that a run already has. A run is found by a tag with the id that its driver gave it.

MLflow is imported inside functions: see `cluster.tracking.server`.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.store.lease import Owner
from cluster.tracking.server import all_pages

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
    from mlflow.tracking import MlflowClient

Record = Mapping[str, Any]
PARENT, DESCRIPTION = "mlflow.parentRunId", "mlflow.note.content"
OWNER, STATUS, FINGERPRINT = "step.owner", "step.status", "step.fingerprint"
LOCAL_ID = "outbox.id"
"""Tag with the id that the driver gave a run."""
TABLES = "mlflow.loggedArtifacts"
"""Tag with the tables of a run, which MLflow's pages show."""
PAGE = 1000


class RunWriter:
    """Writes to one experiment.

    Args:
        client: Client of the server or database.
        experiment_id: Its experiment.
    """

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._ids: dict[str, str] = {}
        """Id of the driver -> id of the server; empty if the server refused to create the run."""
        self._unfinished: dict[tuple[str, str], Run] | None = None
        """(step, fingerprint) -> a run of an earlier driver that failed or was killed."""
        self._repeated: set[str] = set()
        """Runs that were requested twice."""
        self._writers: dict[str, Callable[[str, Record], None]] = {
            "batch": self._log_batch,
            "file": self._log_file,
            "table": self._log_table,
            "datasets": self._log_datasets,
            "reopen": self._reopen,
            "end": self._end,
        }

    def write(self, record: Record, *, is_repeated: bool) -> None:
        """Writes a record. Raises any error of a server, a database or a disk.

        Args:
            record: From `Outbox`.
            is_repeated: The server may have it already.
        """
        kind, run = record["kind"], record["run"]
        if kind == "create":
            self._create(run, record, is_repeated=is_repeated)
        elif run_id := self.server_id(run):
            self._writers[kind](run_id, record)

    def refuse(self, record: Record) -> None:
        """Notes that the server does not accept a record. All records of a run that it does not create are left out."""
        if record["kind"] == "create":
            self._ids[record["run"]] = ""

    def known_id(self, run: str) -> str | None:
        """Returns the id of a run on the server; None if this object does not know it, empty if it was refused."""
        return self._ids.get(run)

    def server_id(self, run: str) -> str:
        """Returns the id of a run on the server, which an earlier driver may have created; empty: it has none."""
        if run not in self._ids:
            found = self._search(f"tags.`{LOCAL_ID}` = '{run}'", ["attributes.start_time ASC"])
            self._ids[run] = next((str(item.info.run_id) for item in found), "")
        return self._ids[run]

    def can_write(self) -> bool:
        """Returns False if the server does not answer, or cannot store anything."""
        try:
            self._client.set_experiment_tag(self._experiment_id, "outbox.probe", "")
        except Exception:
            return False
        return True

    def end_orphans(self) -> None:
        """Ends runs whose driver was killed on this machine. They would be shown as running forever."""
        for run in list(self._search("attributes.status = 'RUNNING'")):
            if Owner.from_json(run.data.tags.get(OWNER, "")).is_dead():
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _create(self, run: str, record: Record, *, is_repeated: bool) -> None:
        if is_repeated:
            self._repeated.add(run)
            if self.server_id(run):
                return
            del self._ids[run]
        tags = {**record["tags"], LOCAL_ID: run}
        if record["parent"]:
            tags[PARENT] = self.server_id(record["parent"])
        unfinished = self._find_unfinished(record["name"], tags.get(FINGERPRINT)) if record["resumes"] else None
        if unfinished is not None:
            self._continue(unfinished, record["name"], tags)
            self._ids[run] = unfinished.info.run_id
            return
        created = self._client.create_run(
            self._experiment_id, start_time=record["at_ms"], tags=tags, run_name=record["name"]
        )
        self._ids[run] = str(created.info.run_id)

    def _find_unfinished(self, name: str, fingerprint: str | None) -> Run | None:
        """Returns the latest run of a step, if that failed or was killed."""
        if self._unfinished is None:
            failed = self._search(
                f"tags.`{STATUS}` = 'executed' and attributes.status != 'RUNNING' and attributes.status != 'FINISHED'"
            )
            self._unfinished = {(item.info.run_name, item.data.tags.get(FINGERPRINT, "")): item for item in failed}
        if fingerprint is None or (name, fingerprint) not in self._unfinished:
            return None
        runs = self._search(
            f"tags.`{FINGERPRINT}` = '{fingerprint}' and tags.`{STATUS}` = 'executed'", ["attributes.start_time DESC"]
        )
        latest = next((item for item in runs if item.info.run_name == name), None)
        return latest if latest is not None and latest.info.status in ("FAILED", "KILLED") else None

    def _continue(self, run: Run, name: str, tags: dict[str, str]) -> None:
        """Continues the run of an earlier attempt, and moves it from its pipeline run to the new one."""
        run_id, old_parent = str(run.info.run_id), run.data.tags.get(PARENT, "")
        if old_parent and old_parent != tags.get(PARENT):
            # MLflow's first import follows `client_of`, which sets its environment.
            from mlflow.exceptions import MlflowException  # noqa: PLC0415  (MLflow takes seconds to import)

            link = f"[an earlier run](#/experiments/{self._experiment_id}/runs/{old_parent})"
            tags[DESCRIPTION] = f"Started in {link}, and continued here."
            with suppress(MlflowException):  # the earlier run may have been deleted
                self._client.set_tag(old_parent, f"step.continued.{name}", run_id)
        self._client.update_run(run_id, "RUNNING")
        self._log_batch(run_id, {"tags": list(tags.items())})

    def _log_batch(self, run_id: str, record: Record) -> None:
        from mlflow import entities  # noqa: PLC0415  (see the docstring of the module)

        self._client.log_batch(
            run_id,
            [entities.Metric(name, value, at_ms, step) for name, value, at_ms, step in record.get("metrics", ())],
            [entities.Param(name, value) for name, value in record.get("params", ())],
            [entities.RunTag(name, value) for name, value in record.get("tags", ())],
        )

    def _log_file(self, run_id: str, record: Record) -> None:
        path = PurePosixPath(record["path"])
        folder = str(path.parent) if path.parent.name else None
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, path.name)
            file.write_bytes(base64.b64decode(record["data"]))
            self._client.log_artifact(run_id, str(file), folder)

    def _log_table(self, run_id: str, record: Record) -> None:
        """Writes a table, and lists it among those that MLflow's pages show. `MlflowClient.log_table` appends rows."""
        self._log_file(run_id, record)
        tables = json.loads(self._client.get_run(run_id).data.tags.get(TABLES, "[]"))
        table = {"path": record["path"], "type": "table"}
        if table not in tables:
            self._client.set_tag(run_id, TABLES, json.dumps([*tables, table]))

    def _log_datasets(self, run_id: str, record: Record) -> None:
        self._client.log_inputs(run_id, [_dataset_input(fields) for fields in record["datasets"]])

    def _reopen(self, run_id: str, record: Record) -> None:
        self._client.update_run(run_id, "RUNNING")
        self._log_batch(run_id, record)

    def _end(self, run_id: str, record: Record) -> None:
        if record["run"] in self._repeated:
            # A slow server may have created a second run for one request.
            for item in list(self._search(f"tags.`{LOCAL_ID}` = '{record['run']}'")):
                if item.info.run_id != run_id:
                    self._client.delete_run(item.info.run_id)
        self._client.set_terminated(run_id, record["status"], record["at_ms"])

    def _search(self, query: str, order_by: list[str] | None = None) -> Iterator[Run]:
        return all_pages(
            lambda token: self._client.search_runs(
                [self._experiment_id], query, max_results=PAGE, order_by=order_by, page_token=token
            )
        )


def halves(record: Record) -> list[Record]:
    """Splits a batch in two, so that one refused value does not cost the others; empty: it is a single value.

    >>> halves({"kind": "batch", "run": "a", "params": [["x", "1"], ["y", "2"]], "tags": [["t", "3"]]})[1]
    {'kind': 'batch', 'run': 'a', 'params': [['y', '2']], 'tags': [['t', '3']]}
    """
    if record["kind"] != "batch":
        return []
    items = [(group, item) for group in ("metrics", "params", "tags") for item in record.get(group, ())]
    if len(items) < 2:
        return []
    middle = len(items) // 2
    parts: list[Record] = []
    for half in (items[:middle], items[middle:]):
        groups = {group: [item for its_group, item in half if its_group == group] for group, _ in half}
        parts.append({"kind": "batch", "run": record["run"], **groups})
    return parts


def _dataset_input(fields: Record) -> DatasetInput:
    from mlflow import entities  # noqa: PLC0415  (see the docstring of the module)

    address = fields["address"]
    dataset = entities.Dataset(
        name=fields["name"],
        digest=fields["digest"],
        source_type=address.partition("://")[0] if "://" in address else "local",
        source=json.dumps({"uri": address}),
        profile=None if fields["num_rows"] is None else json.dumps({"num_rows": fields["num_rows"]}),
    )
    return entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", fields["context"])])
