"""Models in MLflow that a driver began to register and never finished, since it was killed: found, and removed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.storage.lease import Owner

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

OWNER = "stage.owner"
"""Tag of a logged model: the process that registers it."""

LOST_AFTER_S = 24 * 3600
"""A model that nobody finished for so long is given up, also where its owner cannot be seen from here."""

DESCRIPTION = "MLmodel"
"""The file without which MLflow loads no folder; it is written last."""


def owner_tag() -> dict[str, str]:
    """Says who registers a model."""
    return {OWNER: json.dumps(asdict(Owner.me()))}


def upload(client: MlflowClient, model_id: str, folder: Path) -> None:
    """Copies a model's folder to MLflow, what describes it last: half a copy is no model that could be loaded."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == DESCRIPTION):
        if path.is_dir():
            client.log_model_artifacts(model_id, str(path), path.name)
        else:
            client.log_model_artifact(model_id, str(path))


def is_described(client: MlflowClient, model: LoggedModel) -> bool:
    """Whether a model's files are there, to the last; not if its store was moved or they were removed."""
    from mlflow.exceptions import MlflowException

    try:
        return any(item.path == DESCRIPTION for item in client.list_logged_model_artifacts(model.model_id))
    except MlflowException:
        return False


def sweep(client: MlflowClient, experiment: str) -> int:
    """Removes what killed drivers left of the models of an experiment, files first; returns how many there were.

    What a process that lives is registering stays.
    """
    count = 0
    for model in list(models(client, experiment)):
        if OWNER in model.tags and _is_left(model):
            remove(client, model)
            count += 1
    return count


def remove(client: MlflowClient, model: LoggedModel) -> None:
    """Removes a logged model with its files. MLflow itself would keep them, for the model to be restored."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with suppress(OSError, MlflowException, NotImplementedError):  # none were written, or this place cannot delete
        get_artifact_repository(model.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()
    client.delete_logged_model(model.model_id)


def models(client: MlflowClient, experiment: str) -> Iterator[LoggedModel]:
    """All logged models of an experiment, in whatever state."""
    token = None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_left(model: LoggedModel) -> bool:
    if str(model.status) == "READY":
        return False
    is_old = time.time() - model.creation_timestamp / 1000 > LOST_AFTER_S
    return str(model.status) == "FAILED" or is_old or Owner(**json.loads(model.tags[OWNER])).is_dead()
