"""Code and data that change while a step runs."""

import importlib
import os
import pickle
import sys
import time
import zipfile
from pathlib import Path

import pytest
from pydantic import BaseModel

from cluster.errors import ClusterError, SourceChangedError
from cluster.steps import source_files
from cluster.steps.fingerprint import fingerprints
from cluster.steps.source_files import SourceFiles
from cluster.steps.step import Resources, Step
from cluster.steps.task_spec import LateConfig, TaskSpec
from cluster.store.files import file_digest
from cluster.store.lease import Lease, Owner
from stages.common.assets.cache import IDENTIFY, LOCATE, identity, resolve


class Config(BaseModel, frozen=True):
    """Nothing."""


def spec_of(
    run: str,
    files: dict[str, str],
    identify: str = "cluster.store.files:file_digest",
    locate: str = "pathlib:Path",
) -> TaskSpec:
    step = Step(name="step", run=run, config=Config(), files=files)
    return TaskSpec(
        step=step.name,
        run=step.run,
        config=LateConfig(step.config),
        roles={},
        key=fingerprints({step.name: step})[step.name],
        store="",
        lease=Lease(owner=Owner.current(), token=""),
        resources=Resources(),
        engine="",
        files=step.files,
        identify=identify,
        locate=locate,
        provenance={},
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a step that imports a module of its own. Its name is new in each test."""
    folder = tmp_path / f"package_{abs(hash(tmp_path))}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "step.py").write_text("from . import helper\n")
    (folder / "helper.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_code_that_is_edited_and_restored_is_noticed(package: Path) -> None:
    sources = SourceFiles(spec_of(f"{package.name}.step:run", {}))
    sources.check()
    (package / "helper.py").write_text("VALUE = 2\n")
    (package / "helper.py").write_text("VALUE = 1\n")
    with pytest.raises(SourceChangedError, match=r"helper\.py was written while the step ran"):
        sources.check()


def test_code_that_changed_since_the_plan_is_not_run(package: Path) -> None:
    spec = spec_of(f"{package.name}.step:run", {})
    (package / "helper.py").write_text("VALUE = 2\n")
    with pytest.raises(ClusterError, match=r"the code of .*\.helper changed since this run started"):
        SourceFiles(spec)


def test_process_that_may_have_imported_edited_code_runs_no_other_step_of_it(package: Path) -> None:
    SourceFiles(spec_of(f"{package.name}.step:run", {}))
    (package / "helper.py").write_text("VALUE = 2\n")
    (package / "helper.py").write_text("VALUE = 1\n")
    with pytest.raises(SourceChangedError):
        SourceFiles(spec_of(f"{package.name}.step:run", {}))


def test_code_that_was_imported_before_it_was_restored_is_noticed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(f"{package.name}.step:run", {})
    time.sleep(2 * source_files.CLOCK_TICK_NS / 1e9)
    monkeypatch.setattr(source_files, "_STARTED_NS", time.time_ns())
    (package / "helper.py").write_text("VALUE = 222\n")
    importlib.import_module(f"{package.name}.helper")
    (package / "helper.py").write_text("VALUE = 1\n")
    with pytest.raises(SourceChangedError, match=r"helper\.py was written since this process started"):
        SourceFiles(spec)


def test_code_that_was_imported_and_not_written_since_is_no_problem(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module(f"{package.name}.helper")
    time.sleep(2 * source_files.CLOCK_TICK_NS / 1e9)
    monkeypatch.setattr(source_files, "_STARTED_NS", time.time_ns())
    SourceFiles(spec_of(f"{package.name}.step:run", {})).check()


def test_config_is_read_after_the_state_of_the_code_was_noted(package: Path) -> None:
    (package / "conf.py").write_text("class Config:\n    pass\n")
    module = f"{package.name}.conf"
    data = pickle.dumps(LateConfig(importlib.import_module(module).Config()))
    del sys.modules[module]
    late = pickle.loads(pickle.dumps(pickle.loads(data)))
    assert module not in sys.modules
    assert type(late.load()).__module__ == module and module in sys.modules


def test_file_that_joins_a_folder_is_noticed(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    sources = SourceFiles(spec_of(f"{package.name}.step:run", {str(data): identity(str(data))}, IDENTIFY))
    (data / "b").touch()
    with pytest.raises(SourceChangedError, match="data/b"):
        sources.check()


def test_replaced_file_with_the_times_of_the_old_one_is_noticed(package: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("old")
    os.utime(data, (1e9, 1e9))
    sources = SourceFiles(spec_of(f"{package.name}.step:run", {str(data): file_digest(data)}))
    data.write_text("new")
    os.utime(data, (1e9, 1e9))
    with pytest.raises(SourceChangedError, match=r"data\.csv"):
        sources.check()


@pytest.mark.parametrize("ref", ["{url}", "{url}#sha256={sha256}", "{url}#sha256={sha256}!inner.txt"])
def test_asset_that_changes_in_the_cache_is_noticed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str
) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    remote = tmp_path / "remote.zip"
    with zipfile.ZipFile(remote, "w") as archive:
        archive.writestr("inner.txt", "old")
    ref = ref.format(url=remote.as_uri(), sha256=file_digest(remote))
    cached = resolve(ref)
    assert cached != remote
    content = cached.read_bytes()
    sources = SourceFiles(spec_of(f"{package.name}.step:run", {ref: identity(ref)}, IDENTIFY, LOCATE))
    sources.check()
    cached.write_bytes(b"new")
    cached.write_bytes(content)
    with pytest.raises(SourceChangedError, match=cached.name):
        sources.check()


def test_asset_that_is_fetched_again_is_noticed(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    remote = tmp_path / "remote.csv"
    remote.write_text("old")
    ref = remote.as_uri()
    cached = resolve(ref)
    sources = SourceFiles(spec_of(f"{package.name}.step:run", {ref: identity(ref)}, IDENTIFY, LOCATE))
    cached.unlink()
    assert resolve(ref) == cached and cached.read_text() == "old"
    with pytest.raises(SourceChangedError, match=r"remote\.csv"):
        sources.check()
