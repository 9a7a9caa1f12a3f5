"""MLflow's model registry: registers results as versions of named models and promotes the champion.

A model is a folder and the name of a Python module that loads it; this module does not know what the folder contains.
A registered result is found by its fingerprint, so a run may register all its results, new or cached.

A driver may be killed at any moment. It therefore writes the files first, their description last, then the version,
then the alias. Whatever exists is either complete or cannot be loaded. The next run completes or deletes it
(`delete_orphaned_models`).

MLflow and pandas are imported inside functions. Their import takes seconds, and `cluster.tracking.server` sets the
environment that MLflow reads when it is imported.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store.lease import Owner
from cluster.tracking.server import all_pages

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
"""The alias of the version to use: `models:/NAME@champion`."""
FINGERPRINT, ACCURACY, TEST_DIGEST = "step.fingerprint", "test.accuracy", "test.digest"
"""Tags of a version."""
EVALUATED = "champion.evaluated"
"""Tag of a version that was compared to the champion once. The user may move the alias afterward."""
MODEL = "model.id"
"""Tag of a version: its logged model. The databases of MLflow do not store the `model_id` of a version."""
OWNER = "step.owner"
"""Tag of a logged model: the process that registers it."""
ABANDONED_AFTER_S = 24 * 3600
"""Age of an incomplete model that is deleted even if its owner may still run on another machine."""
DESCRIPTION = "MLmodel"
"""The file without which MLflow cannot load a model folder; it is uploaded last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PyfuncSpec:
    """How MLflow loads the models.

    Args:
        module: Module with a function `_load_pyfunc(folder)`.
        code: Packages that the module needs, which every version contains.
        requirements: Packages that must be installed in addition.
    """

    module: str
    code: Sequence[Path]
    requirements: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A result of a step that can be registered as a version.

    Args:
        name: Name of the registered model.
        step: The step that computed it.
        fingerprint: Its fingerprint; each fingerprint is registered once.
        run_id: The MLflow run of the step.
        folder: Returns the folder of its files. Called only if it is registered.
        example: A row of its input: column -> text.
        outputs: Column -> its type in MLflow's schemas; empty: no output schema.
        accuracy: Accuracy on the test set.
        test_digest: Digest of the test set. Accuracies on different test sets are not compared.
        tags: Further tags of the version.
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
    """The version of a candidate. `is_new`: it was registered by this call. `note`: why it is not the champion."""

    name: str
    number: str
    is_new: bool
    is_champion: bool
    note: str = ""


def register(client: MlflowClient, candidate: Candidate, spec: PyfuncSpec) -> RegisteredVersion:
    """Registers a result once, and moves `champion` to it if it is better on the same test set.

    Args:
        client: Client of the server or database that has the run.
        candidate: The result.
        spec: How MLflow loads it.
    """
    query = f"name = '{candidate.name}'"
    versions = list(all_pages(lambda token: client.search_model_versions(query, page_token=token)))
    same_result = [item for item in versions if item.tags.get(FINGERPRINT) == candidate.fingerprint]
    version = next((item for item in same_result if _has_files(client, item)), None)
    is_new = version is None
    if version is None:
        version = _new_version(client, candidate, spec, {item.tags.get(MODEL) for item in versions})
    note = ""
    if EVALUATED not in version.tags:
        note = _promote_champion(client, candidate, version, versions)
        client.set_model_version_tag(candidate.name, version.version, EVALUATED, "true")
    champion = client.get_registered_model(candidate.name).aliases.get(CHAMPION)
    return RegisteredVersion(
        name=candidate.name,
        number=str(version.version),
        is_new=is_new,
        is_champion=str(champion) == str(version.version),
        note=note,
    )


def _has_files(client: MlflowClient, version: ModelVersion) -> bool:
    """Returns False if the version cannot be loaded, because its store was moved or its files were removed."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (see the docstring of the module)

    try:
        return bool(client.list_logged_model_artifacts(version.tags[MODEL]))
    except (KeyError, MlflowException):
        return False


def _new_version(
    client: MlflowClient, candidate: Candidate, spec: PyfuncSpec, used: Collection[str | None]
) -> ModelVersion:
    """Creates a version. `used` are the logged models that already have a version."""
    tags = {**candidate.tags, "step.name": candidate.step, FINGERPRINT: candidate.fingerprint}
    model = _complete_model(client, candidate, used) or _new_model(client, candidate, spec, tags)
    if not client.search_registered_models(f"name = '{candidate.name}'"):
        client.create_registered_model(candidate.name)
    return client.create_model_version(
        candidate.name,
        source=model.artifact_location,  # models:/ID would be resolved by the default tracking server
        run_id=candidate.run_id,
        model_id=model.model_id,
        tags={
            **tags,
            ACCURACY: repr(candidate.accuracy),
            TEST_DIGEST: candidate.test_digest,
            MODEL: model.model_id,
        },
    )


def _complete_model(client: MlflowClient, candidate: Candidate, used: Collection[str | None]) -> LoggedModel | None:
    """Returns a complete model without a version, whose driver was killed before it created one."""
    name = _logged_name(candidate)
    experiment = client.get_run(candidate.run_id).info.experiment_id
    for model in logged_models(client, experiment):
        is_same_result = model.name == name and model.tags.get(FINGERPRINT) == candidate.fingerprint
        is_unused = str(model.status) == "READY" and model.model_id not in used
        if is_same_result and is_unused and is_complete(client, model):
            return model
    return None


def _new_model(client: MlflowClient, candidate: Candidate, spec: PyfuncSpec, tags: Mapping[str, str]) -> LoggedModel:
    model = client.create_logged_model(
        client.get_run(candidate.run_id).info.experiment_id,
        name=_logged_name(candidate),
        source_run_id=candidate.run_id,
        tags={**tags, **owner_tag()},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(candidate, spec, Path(folder, "model"), model.model_id, candidate.run_id)
            upload_model(client, model.model_id, Path(folder, "model"))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return client.finalize_logged_model(model.model_id, "READY")


def _logged_name(candidate: Candidate) -> str:
    return candidate.name.replace(".", "-")


def _save(candidate: Candidate, spec: PyfuncSpec, folder: Path, model_id: str, run_id: str) -> None:
    """Writes the folder of a pyfunc model, with its code, signature and example."""
    import mlflow.pyfunc  # noqa: PLC0415  (see the docstring of the module)
    import pandas  # noqa: PLC0415  (see the docstring of the module)
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415  (see the docstring of the module)
    from mlflow.types import ColSpec, Schema  # noqa: PLC0415  (see the docstring of the module)

    inputs = Schema([ColSpec("string", name) for name in candidate.example])
    columns = [ColSpec(_column_type(type_name), name) for name, type_name in candidate.outputs.items()]
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=spec.module,
        data_path=str(candidate.folder()),
        code_paths=[str(path) for path in spec.code],
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=ModelSignature(inputs=inputs, outputs=Schema(columns) if columns else None),
        input_example=pandas.DataFrame([candidate.example]),
        pip_requirements=list(spec.requirements),
    )


def _column_type(name: str) -> Any:
    """Returns a type of MLflow's schemas: `string`, `double`, ...; `map` is a map from names to numbers, and `list` a
    list of names.
    """
    from mlflow.types import DataType  # noqa: PLC0415  (see the docstring of the module)
    from mlflow.types.schema import Array, Map  # noqa: PLC0415  (see the docstring of the module)

    collections: dict[str, Any] = {"map": Map(DataType.double), "list": Array(DataType.string)}
    return collections.get(name, name)


def _promote_champion(
    client: MlflowClient, candidate: Candidate, version: ModelVersion, others: Sequence[ModelVersion]
) -> str:
    """Moves the alias if this version is better. Returns why not, or an empty text."""
    number = str(client.get_registered_model(candidate.name).aliases.get(CHAMPION, ""))
    champion = next((item for item in others if str(item.version) == number), None)
    if champion is not None and _has_files(client, champion):
        if champion.tags.get(TEST_DIGEST) != candidate.test_digest:
            return f"version {number} stays champion, because its accuracy is on another test set"
        best = float(champion.tags[ACCURACY])
        if candidate.accuracy <= best:
            return f"version {number} stays champion, with {best:.1%} to {candidate.accuracy:.1%}"
    client.set_registered_model_alias(candidate.name, CHAMPION, version.version)
    return ""


def owner_tag() -> dict[str, str]:
    """Returns the tag with this process as the owner of a model."""
    return {OWNER: Owner.current().to_json()}


def upload_model(client: MlflowClient, model_id: str, folder: Path) -> None:
    """Uploads a model folder to MLflow, its description last, so that a partial upload cannot be loaded."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == DESCRIPTION):
        if path.is_dir():
            client.log_model_artifacts(model_id, str(path), path.name)
        else:
            client.log_model_artifact(model_id, str(path))


def is_complete(client: MlflowClient, model: LoggedModel) -> bool:
    """Returns True if all files of a model exist. They do not if its store was moved."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (see the docstring of the module)

    try:
        return any(item.path == DESCRIPTION for item in client.list_logged_model_artifacts(model.model_id))
    except MlflowException:
        return False


def delete_orphaned_models(client: MlflowClient, experiment: str) -> int:
    """Deletes incomplete models of killed drivers in an experiment, files first. Returns their number.

    Keeps the models that a running process is registering.
    """
    count = 0
    for model in list(logged_models(client, experiment)):
        if OWNER in model.tags and _is_orphaned(model):
            delete_model(client, model)
            count += 1
    return count


def delete_model(client: MlflowClient, model: LoggedModel) -> None:
    """Deletes a logged model with its files, which MLflow would keep to restore the model."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (see the docstring of the module)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415  (as above)

    with suppress(OSError, MlflowException, NotImplementedError):  # there are no files, or they cannot be deleted
        get_artifact_repository(model.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()
    client.delete_logged_model(model.model_id)


def logged_models(client: MlflowClient, experiment: str) -> Iterator[LoggedModel]:
    """Returns all logged models of an experiment, with any status."""
    return all_pages(lambda token: client.search_logged_models([experiment], page_token=token))


def _is_orphaned(model: LoggedModel) -> bool:
    if str(model.status) == "READY":
        return False
    is_old = time.time() - model.creation_timestamp / 1000 > ABANDONED_AFTER_S
    return str(model.status) == "FAILED" or is_old or Owner.from_json(model.tags[OWNER]).is_dead()
