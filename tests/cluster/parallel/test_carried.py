"""Functions with paths of results, which other machines have in other folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cluster.parallel.carried import Carried
from cluster.store.remote import RemoteStore
from cluster.store.upstream import Upstream
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import commit


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


def read(folders: dict[str, tuple[Path, ...]], name: str) -> tuple[str, str]:
    (folder,) = folders["members"]
    return str(folder), (folder / name).read_text()


def test_function_reads_the_files_of_the_machine_on_which_it_runs(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(store.url, (commit(store),))
    (folder,) = upstream.folders()
    carried = Carried.of(partial(read, {"members": (folder / "sub",)}), upstream)
    assert carried.load()("model.bin") == (str(folder / "sub"), "hello")
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    path, text = carried.load()("model.bin")
    assert text == "hello"
    assert Path(path).is_relative_to(tmp_path / "another machine"), "fetched there"


def test_other_paths_stay(tmp_path: Path) -> None:
    value = {"shards": tmp_path / "shards", "name": "results"}
    assert Carried.of(value, Upstream(str(tmp_path / "store"))).load() == value
