"""The MLflow server or database that gets the runs of a store, and the experiment in it.

MLflow is imported inside functions: its import takes one or two seconds, and `client_of` sets the environment that
MLflow reads when it is imported.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import TrackingError
from cluster.redaction import STARS, redact
from cluster.store.lease import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without this tag the pages of MLflow guess, and may show training runs as evaluations of chats."""
VIEW = "columns"
SHOWN_COLUMNS = ("metrics.`accuracy`", "metrics.`macro_f1`", "metrics.`seconds`", "tags.`step`", "tags.`reason`")
VIEW_TAG = {f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": SHOWN_COLUMNS})}
"""A view of the table of runs, as the button "Share" of MLflow's page stores it. `runs_page` is its link."""
LOCAL_UI = "http://127.0.0.1:5000"
"""Where `make ui` shows a database."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the runs of a pipeline go.

    Args:
        store: Folder of the store. By default its `mlflow.db` has the runs, and `mlartifacts` their files.
        experiment: Name of the experiment, which is created if it does not exist.
        uri: Tracking server, or `sqlite:////absolute/path.db`; empty: the database of the store.
    """

    store: Path
    experiment: str
    uri: str = ""

    @property
    def address(self) -> str:
        """The address of the server or database."""
        return self.uri or tracking_uri(self.store)

    @property
    def database(self) -> Path | None:
        """The file of an sqlite database; None for a server."""
        return Path(self.address.removeprefix("sqlite:///")) if self.address.startswith("sqlite:") else None

    def record(self) -> dict[str, Any]:
        """Returns the destination as JSON values, without secrets."""
        return {"experiment": self.experiment, "uri": redact(self.uri)}

    @classmethod
    def from_record(cls, store: Path, record: dict[str, Any]) -> Destination:
        """Reads what `record` returned. Takes a secret in the address from the environment.

        Raises:
            TrackingError: the secret is not there.
        """
        uri, current = str(record["uri"]), os.environ.get(URI_VARIABLE, "")
        if redact(current) == uri:
            uri = current
        elif STARS in uri:
            raise TrackingError(f"the password of MLflow at {uri} is not known.", f"Set {URI_VARIABLE} to its address.")
        return cls(store, str(record["experiment"]), uri)

    def open_client(self) -> MlflowClient:
        """Returns a client, and creates the database if it does not exist.

        Raises:
            TrackingError: the address is relative or of an unknown kind, or the database cannot be used.
        """
        if self.uri.startswith("sqlite:") and not self.uri.startswith("sqlite:////"):
            raise TrackingError(
                f"the tracking address {self.uri} is relative, so each process would use another database.",
                "Use an absolute path with four slashes: sqlite:////data/mlflow.db.",
            )
        database = self.database
        try:
            if database is not None:
                database.parent.mkdir(parents=True, exist_ok=True)
                # The lock keeps two drivers from creating the tables of one database.
                with locked(database.parent):
                    if not database.exists():
                        _create_database(database)
            return client_of(self.address)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {redact(self.address)} cannot be used: {redact(str(error))}.",
                "Check the address and the server.",
            ) from error

    def find_experiment(self, client: MlflowClient) -> str:
        """Returns the id of the experiment. If its store was moved, renames the experiment and creates a new one."""
        self.store.mkdir(parents=True, exist_ok=True)
        with locked(self.store):
            location = (self.store.absolute() / "mlartifacts").as_uri() if self.database else None
            found = client.get_experiment_by_name(self.experiment)
            if found is not None and location and found.artifact_location != location:
                client.rename_experiment(
                    found.experiment_id, f"{self.experiment} (store moved, run {found.experiment_id})"
                )
                found = None
            if found is None:
                return str(client.create_experiment(self.experiment, location, EXPERIMENT_KIND | VIEW_TAG))
            for name, value in VIEW_TAG.items():
                if found.tags.get(name) != value:
                    client.set_experiment_tag(found.experiment_id, name, value)
            return str(found.experiment_id)

    def runs_page(self, experiment_id: str) -> str:
        """Returns the address of the page with the table of runs, which shows their results in columns."""
        root = redact(self.address).rstrip("/") if self.address.startswith("http") else LOCAL_UI
        return f"{root}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def all_pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yields the items of all pages of a search. `search` returns the page with a token; None: the first page."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def tracking_uri(store: Path) -> str:
    """Returns the default address for the runs of a store."""
    return f"sqlite:///{store.absolute()}/mlflow.db"


def client_of(uri: str) -> MlflowClient:
    """Returns a client that logs warnings only. Imports MLflow, which takes one or two seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The outbox repeats calls itself, and looks first whether a slow server has created a run after all.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415  (reads the variable above when imported)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _create_database(path: Path) -> None:
    """Creates a database under another name and renames it.

    Creating the tables takes seconds, and MLflow can neither use nor repair a database with some of them.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    client_of(f"sqlite:///{part}")
    part.replace(path)
