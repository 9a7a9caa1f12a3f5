"""MLflow's model registry: registers results as versions of named models and promotes the champion.

A model is a folder and the name of a Python module that loads it; this module does not know what the folder contains.
A registered result is found by its fingerprint, so a run may offer all its results, new or cached.

A driver may be killed at any moment. It therefore writes the files first, their description last, then the version,
then the alias. What exists is complete or cannot be loaded, and the next run finishes it or deletes it
(`delete_orphaned_models`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store.lease import Owner

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
"""The alias of the version to use: `models:/NAME@champion`."""
FINGERPRINT, ACCURACY, TEST_DIGEST = "stage.fingerprint", "test.accuracy", "test.digest"
"""Tags of a version."""
JUDGED = "champion.judged"
"""Tag of a version for which the alias has been decided on: people may move it afterwards."""
MODEL = "model.id"
"""Tag of a version: its logged model. MLflow's databases keep no `model_id` of a version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PyfuncSpec:
    """How models are loaded elsewhere.

    `module` has a function `_load_pyfunc(folder)`; `code` are the packages that it needs, which every version carries;
    `requirements` what has to be installed besides.
    """

    module: str
    code: Sequence[Path]
    requirements: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A result of a step that may become a version.

    Args:
        name: Of the registered model.
        step: The step that made it.
        fingerprint: Its fingerprint: what is registered once is not registered again.
        run_id: The run under which MLflow shows it.
        folder: Its files; asked for only if it is registered.
        example: A row of its input, with all columns, which hold text.
        outputs: Column -> its type in MLflow's schemas; empty: not told.
        accuracy: On the test set.
        test_digest: Of the test set: other test sets' accuracies do not compare.
        tags: More tags of the version.
    """

    name: str
    step: str
    fingerprint: str
    run_id: str
    folder: Callable[[], Path]
    example: Mapping[str, str]
    outputs: Mapping[str, str] = field(default_factory=dict)
    accuracy: float
    test_digest: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """What became of a candidate. `is_new`: it was registered now; `note`: why it is not the champion."""

    name: str
    number: str
    is_new: bool
    is_champion: bool
    note: str = ""


def register(client: MlflowClient, candidate: Candidate, spec: PyfuncSpec) -> RegisteredVersion:
    """Registers a result unless it is known already, and moves `champion` to it if it is better on the same test set.

    Args:
        client: Of the server, or the database, that has the run.
        candidate: The result.
        spec: How it is loaded.
    """
    versions = _versions(client, candidate.name)
    known = [item for item in versions if item.tags.get(FINGERPRINT) == candidate.fingerprint]
    version = next((item for item in known if _has_files(client, item)), None)
    is_new = version is None
    if version is None:
        version = _new_version(client, candidate, spec, {item.tags.get(MODEL) for item in versions})
    if JUDGED not in version.tags:
        note = _promote_champion(client, candidate, version, versions)
        client.set_model_version_tag(candidate.name, version.version, JUDGED, "true")
    else:
        note = ""
    champion = client.get_registered_model(candidate.name).aliases.get(CHAMPION)
    is_champion = str(champion) == str(version.version)
    return RegisteredVersion(
        name=candidate.name, number=str(version.version), is_new=is_new, is_champion=is_champion, note=note
    )


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _has_files(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether it can still be loaded: not if its store was moved or its files were removed."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.list_logged_model_artifacts(version.tags[MODEL]))
    except (KeyError, MlflowException):
        return False


def _new_version(
    client: MlflowClient, candidate: Candidate, loader: PyfuncSpec, used: Collection[str | None]
) -> ModelVersion:
    """`used`: the logged models that are versions already."""
    tags = {**candidate.tags, "stage.step": candidate.step, FINGERPRINT: candidate.fingerprint}
    model = _whole_model(client, candidate, used) or _new_model(client, candidate, loader, tags)
    if not client.search_registered_models(f"name = '{candidate.name}'"):
        client.create_registered_model(candidate.name)
    return client.create_model_version(
        candidate.name,
        source=model.artifact_location,  # models:/ID would be looked up where the process tracks, not where we do
        run_id=candidate.run_id,
        model_id=model.model_id,
        tags={
            **tags,
            ACCURACY: repr(candidate.accuracy),
            TEST_DIGEST: candidate.test_digest,
            MODEL: model.model_id,
        },
    )


def _whole_model(client: MlflowClient, candidate: Candidate, used: Collection[str | None]) -> LoggedModel | None:
    """A model of a driver that was killed before it made a version of it."""
    name = _logged_name(candidate)
    experiment = client.get_run(candidate.run_id).info.experiment_id
    for model in logged_models(client, experiment):
        is_ours = model.name == name and model.tags.get(FINGERPRINT) == candidate.fingerprint
        is_free = str(model.status) == "READY" and model.model_id not in used
        if is_ours and is_free and is_described(client, model):
            return model
    return None


def _new_model(client: MlflowClient, candidate: Candidate, loader: PyfuncSpec, tags: Mapping[str, str]) -> LoggedModel:
    model = client.create_logged_model(
        client.get_run(candidate.run_id).info.experiment_id,
        name=_logged_name(candidate),
        source_run_id=candidate.run_id,
        tags={**tags, **owner_tag()},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(candidate, loader, Path(folder, "model"), model.model_id, candidate.run_id)
            upload_model(client, model.model_id, Path(folder, "model"))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return client.finalize_logged_model(model.model_id, "READY")


def _logged_name(candidate: Candidate) -> str:
    return candidate.name.replace(".", "-")


def _save(candidate: Candidate, loader: PyfuncSpec, folder: Path, model_id: str, run_id: str) -> None:
    """The folder of a pyfunc model, with its code, signature and example."""
    import mlflow.pyfunc
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("string", name) for name in candidate.example])
    columns = [ColSpec(_kind(kind), name) for name, kind in candidate.outputs.items()]
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=loader.module,
        data_path=str(candidate.folder()),
        code_paths=[str(path) for path in loader.code],
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=ModelSignature(inputs=inputs, outputs=Schema(columns) if columns else None),
        input_example=pandas.DataFrame([candidate.example]),
        pip_requirements=list(loader.requirements),
    )


def _kind(name: str) -> Any:
    """`string`, `double`, ...; `map` for a number under each name."""
    from mlflow.types import DataType
    from mlflow.types.schema import Map

    return Map(DataType.double) if name == "map" else name


def _promote_champion(
    client: MlflowClient, candidate: Candidate, version: ModelVersion, others: Sequence[ModelVersion]
) -> str:
    """Moves the alias if this version deserves it; returns why not, or nothing."""
    holder = str(client.get_registered_model(candidate.name).aliases.get(CHAMPION, ""))
    champion = next((item for item in others if str(item.version) == holder), None)
    if champion is not None and _has_files(client, champion):
        if champion.tags.get(TEST_DIGEST) != candidate.test_digest:
            return f"version {holder} stays champion, since its accuracy is on another test set"
        best = float(champion.tags[ACCURACY])
        if candidate.accuracy <= best:
            return f"version {holder} stays champion, with {best:.1%} to {candidate.accuracy:.1%}"
    client.set_registered_model_alias(candidate.name, CHAMPION, version.version)
    return ""


OWNER = "stage.owner"
"""Tag of a logged model: the process that registers it."""
LOST_AFTER_S = 24 * 3600
"""A model that nobody finished for so long is given up, also where its owner cannot be seen from here."""
DESCRIPTION = "MLmodel"
"""The file without which MLflow loads no folder; it is written last."""


def owner_tag() -> dict[str, str]:
    """Says who registers a model."""
    return {OWNER: json.dumps(asdict(Owner.current()))}


def upload_model(client: MlflowClient, model_id: str, folder: Path) -> None:
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


def delete_orphaned_models(client: MlflowClient, experiment: str) -> int:
    """Removes what killed drivers left of the models of an experiment, files first; returns how many there were.

    What a process that lives is registering stays.
    """
    count = 0
    for model in list(logged_models(client, experiment)):
        if OWNER in model.tags and _is_orphaned(model):
            delete_model(client, model)
            count += 1
    return count


def delete_model(client: MlflowClient, model: LoggedModel) -> None:
    """Removes a logged model with its files. MLflow itself would keep them, for the model to be restored."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with suppress(OSError, MlflowException, NotImplementedError):  # none were written, or this place cannot delete
        get_artifact_repository(model.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()
    client.delete_logged_model(model.model_id)


def logged_models(client: MlflowClient, experiment: str) -> Iterator[LoggedModel]:
    """All logged models of an experiment, in whatever state."""
    token = None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_orphaned(model: LoggedModel) -> bool:
    if str(model.status) == "READY":
        return False
    is_old = time.time() - model.creation_timestamp / 1000 > LOST_AFTER_S
    return str(model.status) == "FAILED" or is_old or Owner(**json.loads(model.tags[OWNER])).is_dead()
