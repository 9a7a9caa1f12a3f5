"""MLflow's model registry: results of steps as versions of named models, and which version is the champion.

A model is a folder and the name of a Python module that loads it; what is in the folder is not known here. What has
been registered once is found again by its fingerprint, so that a run may offer all that it has, new or from the store.

A driver may be killed at any moment: the files come first, their description last of them, then the version, then the
alias. Whatever is there is whole or cannot be loaded, and the next run goes on or cleans up (`unfinished.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tracking import unfinished

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
class Loader:
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
class Version:
    """What became of a candidate. `is_new`: it was registered now; `note`: why it is not the champion."""

    name: str
    number: str
    is_new: bool
    is_champion: bool
    note: str = ""


def register(client: MlflowClient, candidate: Candidate, loader: Loader) -> Version:
    """Registers a result unless it is known already, and moves `champion` to it if it is better on the same test set.

    Args:
        client: Of the server, or the database, that has the run.
        candidate: The result.
        loader: How it is loaded.
    """
    versions = _versions(client, candidate.name)
    known = [item for item in versions if item.tags.get(FINGERPRINT) == candidate.fingerprint]
    version = next((item for item in known if _has_files(client, item)), None)
    is_new = version is None
    if version is None:
        version = _new_version(client, candidate, loader, {item.tags.get(MODEL) for item in versions})
    if JUDGED not in version.tags:
        note = _judge(client, candidate, version, versions)
        client.set_model_version_tag(candidate.name, version.version, JUDGED, "true")
    else:
        note = ""
    champion = client.get_registered_model(candidate.name).aliases.get(CHAMPION)
    is_champion = str(champion) == str(version.version)
    return Version(name=candidate.name, number=str(version.version), is_new=is_new, is_champion=is_champion, note=note)


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
    client: MlflowClient, candidate: Candidate, loader: Loader, used: Collection[str | None]
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
    for model in unfinished.models(client, experiment):
        is_ours = model.name == name and model.tags.get(FINGERPRINT) == candidate.fingerprint
        is_free = str(model.status) == "READY" and model.model_id not in used
        if is_ours and is_free and unfinished.is_described(client, model):
            return model
    return None


def _new_model(client: MlflowClient, candidate: Candidate, loader: Loader, tags: Mapping[str, str]) -> LoggedModel:
    model = client.create_logged_model(
        client.get_run(candidate.run_id).info.experiment_id,
        name=_logged_name(candidate),
        source_run_id=candidate.run_id,
        tags={**tags, **unfinished.owner_tag()},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(candidate, loader, Path(folder, "model"), model.model_id, candidate.run_id)
            unfinished.upload(client, model.model_id, Path(folder, "model"))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return client.finalize_logged_model(model.model_id, "READY")


def _logged_name(candidate: Candidate) -> str:
    return candidate.name.replace(".", "-")


def _save(candidate: Candidate, loader: Loader, folder: Path, model_id: str, run_id: str) -> None:
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


def _judge(client: MlflowClient, candidate: Candidate, version: ModelVersion, others: Sequence[ModelVersion]) -> str:
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
