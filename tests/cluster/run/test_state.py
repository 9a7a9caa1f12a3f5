"""Steps of a run become ready, wait and end, without Ray."""

import pickle
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace

from cluster.provenance import provenance
from cluster.run.state import Phase, RunState, StepState
from cluster.steps.code_digests import versions
from cluster.steps.fingerprint import fingerprints
from cluster.steps.plan import PlannedStep, PlanState
from cluster.steps.step import Step, graph
from cluster.store.manifest import FileEntry, Manifest
from tests.support.steps import toy


def state_of(*leaves: Step) -> RunState:
    nodes = graph(leaves)
    keys = fingerprints(nodes)
    return RunState(PlannedStep(step=nodes[name], key=keys[name], state=PlanState.RUN) for name in nodes)


def manifest_of(step: StepState, digest: str = "a") -> Manifest:
    upstream = {item.name: item.content_digest for item in step.upstream}
    files = {"a": FileEntry(size=1, sha256=digest)}
    return Manifest(
        step=step.name, fingerprint=step.fingerprint, key={}, files=files, upstream_digests=upstream, result=None
    )


def pop_all(state: RunState) -> list[str]:
    names = []
    while (step := state.pop_ready()) is not None:
        names.append(step.name)
    return names


def names(steps: Iterable[StepState]) -> list[str]:
    return [step.name for step in steps]


def diamond() -> RunState:
    base = toy("base")
    return state_of(toy("end", 3, parts=(toy("left", 1, base=base), toy("right", 2, base=base))))


def test_step_is_ready_once_when_its_last_upstream_ended() -> None:
    state = diamond()
    assert pop_all(state) == ["base"] and pop_all(state) == []
    state.commit(state.steps["base"], manifest_of(state.steps["base"]))
    assert pop_all(state) == ["left", "right"]
    state.end(state.steps["right"], Phase.FAILED)
    assert pop_all(state) == []
    state.commit(state.steps["left"], manifest_of(state.steps["left"]))
    assert pop_all(state) == ["end"] and state.num_open == 1
    assert state.steps["end"].missing_upstream == "right"


def test_steps_are_submitted_in_the_order_of_the_plan_and_not_before_their_time() -> None:
    state = state_of(*(toy(f"x/{index}", index) for index in range(4)))
    steps = list(state.steps.values())
    for index in (2, 0, 3):
        state.add_runnable(steps[index])
    state.defer(steps[1], 10.0)
    assert state.next_deferred_s == 10.0 and steps[1].phase is Phase.WAITING
    submitted = [state.pop_runnable(9.0) for _ in range(4)]
    assert names(filter(None, submitted)) == ["x/0", "x/2", "x/3"]
    assert names(filter(None, [state.pop_runnable(10.0)])) == ["x/1"]


def test_only_steps_that_were_ready_may_start_after_a_failure() -> None:
    state = diamond()
    state.commit(state.steps["base"], manifest_of(state.steps["base"]))
    state.hold_back()
    state.commit(state.steps["left"], manifest_of(state.steps["left"]))
    state.commit(state.steps["right"], manifest_of(state.steps["right"]))
    assert [step.name for step in state.steps.values() if not step.may_start] == ["end"]


def test_result_fits_only_the_upstream_from_which_it_was_computed() -> None:
    state = diamond()
    base, left = state.steps["base"], state.steps["left"]
    state.commit(base, manifest_of(base))
    result = manifest_of(left)
    assert left.fits_upstream(result)
    base.content_digest = "another"
    assert not left.fits_upstream(result)


def test_inputs_of_a_worker_name_files_without_the_key() -> None:
    state = diamond()
    base = state.steps["base"]
    state.commit(base, manifest_of(base))
    assert base.manifest is not None and base.manifest.key == base.planned.key.components
    sent = state.steps["left"].inputs()["base"]
    assert sent.key == {} and sent.content_digest == base.content_digest and sent.folder == "files"


def test_results_share_what_they_have_in_common() -> None:
    """A driver keeps the results of all steps, and each one that a worker sends is a copy of its own."""
    state = state_of(*(toy(f"x/{index}", index) for index in range(200)))
    steps = list(state.steps.values())
    sent = [
        pickle.dumps(
            replace(
                manifest_of(step, digest=f"{step.index:064x}"),
                key=step.planned.key.components,
                versions=dict(versions()),
                provenance=provenance(),
            )
        )
        for step in steps
    ]
    tracemalloc.start()
    for step, data in zip(steps, sent, strict=True):
        state.commit(step, pickle.loads(data))
    bytes_per_step = tracemalloc.get_traced_memory()[0] / len(steps)
    tracemalloc.stop()
    for step, data in zip(steps, sent, strict=True):
        assert step.manifest == pickle.loads(data)
    assert bytes_per_step < 1500
    first, last = steps[0].manifest, steps[-1].manifest
    assert first is not None and last is not None
    assert first.versions is last.versions and first.provenance is last.provenance
    other = replace(manifest_of(steps[0]), versions={"python": "3.0"})
    state.commit(steps[0], other)
    assert steps[0].manifest is not None and steps[0].manifest.versions == {"python": "3.0"}
