"""Plans: CACHED, RUN, BLOCKED and the reasons. These tests commit results without Ray."""

from collections.abc import Sequence

import pytest

from cluster import arithmetic
from cluster.errors import GraphError
from cluster.steps.fingerprint import fingerprints
from cluster.steps.plan import Plan, PlanState, Selection, plan
from cluster.steps.step import Step, graph
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.manifest import FORMAT, Manifest
from tests.support.steps import toy
from tests.support.store_helpers import builder


def commit(store: Store, leaf: Step, names: Sequence[str] | None = None, text: str = "") -> None:
    """Commits the graph of `leaf`, or the named steps of it. Each writes one file with its name and `text`."""
    nodes = graph([leaf])
    keys = fingerprints(nodes)
    contents: dict[str, str] = {}
    for name, step in nodes.items():
        fingerprint = keys[name].fingerprint
        if names is not None and name not in names:
            known = store.lookup(name, fingerprint)
            contents[name] = known.content_digest if known else ""
            continue
        leases = Leases()
        slot = store.slot(name, fingerprint)
        draft = store.begin(name, fingerprint, leases.acquire(slot, name))
        (draft.out / "name.txt").write_text(name + text)
        made_from = {item.name: contents[item.name] for item in step.upstream()}
        key = keys[name].components
        contents[name] = draft.commit(
            {},
            lambda result, files, name=name, fingerprint=fingerprint, key=key, made_from=made_from: Manifest(
                step=name, fingerprint=fingerprint, key=key, files=files, upstream_digests=made_from, result=result
            ),
        ).content_digest
        leases.release(slot)


def chain(data: int = 0, rate: int = 0, student: int = 0) -> Step:
    """data -> pet/a/0, pet/b/0 -> soft_labels -> distill/0."""
    first = toy("data", data)
    members = (toy("pet/a/0", rate, base=first), toy("pet/b/0", 1, base=first))
    return toy("distill/0", student, base=toy("soft_labels", 3, parts=members))


def shown(lines: Plan) -> dict[str, str]:
    return {line.name: f"{line.state}: {'; '.join(line.reasons)}".rstrip(": ") for line in lines}


def test_plan_of_a_new_store_runs_everything(store: Store) -> None:
    assert set(shown(plan([chain()], store)).values()) == {"RUN: never run"}
    assert not store.root.exists()


def test_plan_of_a_committed_graph_is_all_cached(store: Store) -> None:
    commit(store, chain())
    assert set(shown(plan([chain()], store)).values()) == {"CACHED"}


def test_plan_runs_a_changed_step_and_its_descendants(store: Store) -> None:
    commit(store, chain())
    assert shown(plan([chain(rate=7)], store)) == {
        "data": "CACHED",
        "pet/a/0": "RUN: config.value: 0 -> 7",
        "pet/b/0": "CACHED",
        "soft_labels": "RUN: its upstream pet/a/0 runs",
        "distill/0": "RUN: its upstream soft_labels runs",
    }
    assert shown(plan([chain(student=2)], store))["distill/0"] == "RUN: config.value: 0 -> 2"


def test_new_version_of_the_arithmetic_of_the_engine_runs_every_step(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, chain())
    monkeypatch.setattr(arithmetic, "VERSION", arithmetic.VERSION + 1)
    lines = shown(plan([chain()], store))
    assert lines["data"] == "RUN: the code of cluster.arithmetic changed"
    assert lines["pet/a/0"] == "RUN: the code of cluster.arithmetic changed; its upstream data runs"
    assert all(text.startswith("RUN: the code of cluster.arithmetic changed") for text in lines.values())


def test_plan_runs_only_the_damaged_step(store: Store) -> None:
    """Results made from the files before they were damaged stay committed."""
    commit(store, chain())
    lines = {line.name: line for line in plan([chain()], store)}
    (store.files("pet/b/0", lines["pet/b/0"].fingerprint) / "name.txt").write_text("")
    states = shown(plan([chain()], store))
    assert states.pop("pet/b/0") == "RUN: output files damaged: name.txt has 0 bytes, expected 7"
    assert set(states.values()) == {"CACHED"}


def test_verify_compares_the_hashes_of_files(store: Store) -> None:
    commit(store, chain())
    line = plan([chain()], store)[0]
    (store.files("data", line.fingerprint) / "name.txt").write_text("dada")
    assert plan([chain()], store)[0].state is PlanState.CACHED
    assert plan([chain()], store, Selection(verify=True))[0].state is PlanState.RUN


def test_upstream_rebuilt_with_other_files_runs_the_steps_that_read_it(store: Store) -> None:
    commit(store, chain())
    commit(store, chain(), ["pet/a/0"])
    assert set(shown(plan([chain()], store)).values()) == {"CACHED"}
    commit(store, chain(), ["pet/a/0"], text=" with other bytes")
    states = shown(plan([chain()], store))
    assert "pet/a/0 was rebuilt, with other files" in states["soft_labels"]
    assert states["pet/b/0"] == "CACHED"


def test_force_runs_a_committed_step(store: Store) -> None:
    commit(store, chain())
    states = shown(plan([chain()], store, Selection(force=("pet/*",))))
    assert states["pet/a/0"] == states["pet/b/0"] == "RUN: forced"
    assert states["data"] == states["soft_labels"] == "CACHED"


def test_until_leaves_out_descendants(store: Store) -> None:
    assert list(shown(plan([chain()], store, Selection(until=("pet/a/*",))))) == ["data", "pet/a/0"]


def test_from_requires_a_committed_upstream(store: Store) -> None:
    states = shown(plan([chain()], store, Selection(from_=("soft_labels",))))
    assert states["pet/a/0"] == "BLOCKED: neither committed nor selected in this run"
    assert "soft_labels needs pet/a/0, which is neither committed nor selected" in states["soft_labels"]
    assert states["distill/0"] == "BLOCKED: it needs soft_labels, which is blocked"
    commit(store, chain(), ["data", "pet/a/0", "pet/b/0"])
    states = shown(plan([chain()], store, Selection(from_=("soft_labels",))))
    assert list(states) == ["pet/a/0", "pet/b/0", "soft_labels", "distill/0"]
    assert states["pet/a/0"] == "CACHED" and states["distill/0"] == "RUN: never run"


def test_only_reads_a_committed_upstream_and_looks_no_further(store: Store) -> None:
    """The files of `data` may be missing, because `distill/0` does not read them."""
    commit(store, chain(), ["soft_labels"])
    assert shown(plan([chain()], store, Selection(only=("distill/*",)))) == {
        "soft_labels": "CACHED",
        "distill/0": "RUN: never run",
    }


@pytest.mark.parametrize(
    "selection",
    [Selection(only=("pte/*",)), Selection(from_=("distill/0",), until=("data",)), Selection(force=("unknown",))],
)
def test_selection_without_steps_raises_an_error(store: Store, selection: Selection) -> None:
    with pytest.raises(GraphError):
        plan([chain()], store, selection)
    with pytest.raises(GraphError, match="cannot force"):
        plan([chain()], store, Selection(until=("data",), force=("distill/0",)))


def test_result_of_an_older_format_reruns_with_a_reason(store: Store) -> None:
    step = toy("old")
    planned = plan([step], store)[0]
    leases = Leases()
    for fingerprint in (planned.fingerprint, "0" * 64):
        staged = store.begin("old", fingerprint, leases.acquire(store.slot("old", fingerprint), "old"))
        staged.commit({}, builder(fingerprint))
        leases.release(store.slot("old", fingerprint))
        manifest = store.folder("old", fingerprint) / "manifest.json"
        manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 0'))
    reason = f"made by another version: the manifest has format 0, but this version reads format {FORMAT}."
    assert plan([step], store)[0].reasons == (reason,)
    # The older version may have computed other fingerprints.
    assert plan([toy("old", 1)], store)[0].reasons == (reason,)
