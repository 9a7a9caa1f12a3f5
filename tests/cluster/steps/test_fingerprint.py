"""What changes the key of a step, and what does not."""

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from cluster.canonical_json import canonical, flatten, plain
from cluster.errors import FingerprintError, GraphError, StoreError
from cluster.steps.code_digests import CodeDigests
from cluster.steps.fingerprint import changed_params, fingerprints
from cluster.steps.step import Resources, Step, graph
from cluster.store.files import file_digest
from cluster.store.manifest import differences
from tests.support.steps import toy

STAGE = '''
"""A stage."""
import helper_{n}

def run(config, inputs, out, recorder, engine):
    """Adds."""
    from late_{n} import offset
    # a comment
    return helper_{n}.add(config.value, 1) + offset
'''


class Inner(BaseModel, frozen=True):
    rate: float = 0.1
    workers: int = Field(1, json_schema_extra={"identity": False})


class Outer(BaseModel, frozen=True):
    inner: Inner = Inner()
    words: tuple[str, ...] = ("good", "bad")
    path: str = Field("/here", json_schema_extra={"identity": False})


def key_of(step: Step) -> Any:
    return fingerprints(graph([step]))[step.name]


def fingerprint(step: Step) -> str:
    return str(key_of(step).fingerprint)


numbers = itertools.count()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[str, str]]], tuple[str, str]]:
    """Returns a function that writes a package, changes it, and returns the digests before and after."""
    monkeypatch.syspath_prepend(tmp_path)

    def build(changes: dict[str, tuple[str, str]]) -> tuple[str, str]:
        number = next(numbers)
        folder = tmp_path / f"pack_{number}"
        folder.mkdir()
        sources = {
            "__init__": "",
            "stage": STAGE.format(n=number)
            .replace(f"import helper_{number}", f"from pack_{number} import helper")
            .replace(f"helper_{number}", "helper")
            .replace(f"late_{number}", f"pack_{number}.late"),
            "helper": "from . import deep\n\ndef add(a, b):\n    return a + b + deep.ZERO\n",
            "deep": "ZERO = 0\n",
            "late": "offset = 5\n",
            "unrelated": "x = 1\n",
        }
        digests = []
        for number_of_change in range(2):
            for name, text in sources.items():
                old, new = changes.get(name, ("", ""))
                assert old in text
                (folder / f"{name}.py").write_text(text.replace(old, new) if number_of_change else text)
            digests.append(canonical(CodeDigests().of(f"pack_{number}.stage")))
        return digests[0], digests[1]

    return build


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "config.value, 1", "config.value, 2"),
        ("helper", "a + b", "a - b"),
        ("deep", "ZERO = 0", "ZERO = 1"),
        ("late", "offset = 5", "offset = 6"),
        ("deep", "ZERO = 0", "ZERO = None"),
    ],
)
def test_changed_line_changes_the_digest_of_every_importer(modules: Any, module: str, old: str, new: str) -> None:
    before, after = modules({module: (old, new)})
    assert before != after


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "# a comment", "# another comment\n    # and one more"),
        ("stage", '"""Adds."""', '"""Adds two numbers."""'),
        ("stage", '"""A stage."""', ""),
        ("helper", "a + b + deep.ZERO", "(a + b\n        + deep.ZERO)"),
        ("unrelated", "x = 1", "x = 2"),
    ],
)
def test_comments_docstrings_layout_and_unrelated_modules_do_not_count(
    modules: Any, module: str, old: str, new: str
) -> None:
    before, after = modules({module: (old, new)})
    assert before == after


def test_config_values_count_except_those_marked_otherwise() -> None:
    def step(config: BaseModel) -> Step:
        return Step(name="a", run=toy("x").run, config=config)

    base = fingerprint(step(Outer()))
    assert fingerprint(step(Outer())) == base
    assert fingerprint(step(Outer(inner=Inner(rate=0.2)))) != base
    assert fingerprint(step(Outer(words=("bad", "good")))) != base
    assert fingerprint(step(Outer(path="/there"))) == base
    assert fingerprint(step(Outer(inner=Inner(workers=8)))) == base


def test_name_assets_and_upstream_count_but_resources_kind_and_labels_do_not() -> None:
    first, second = toy("a", 1), toy("b", 2)
    base = fingerprint(toy("end", parts=(first, second), assets={"data": "d1"}))
    assert fingerprint(toy("other", parts=(first, second), assets={"data": "d1"})) != base
    assert fingerprint(toy("end", parts=(first, second), assets={"data": "d2"})) != base
    assert fingerprint(toy("end", parts=(second, first), assets={"data": "d1"})) != base
    assert fingerprint(toy("end", parts=(toy("a", 7), second), assets={"data": "d1"})) != base
    more = Resources(cpus=64, gpus=8, max_attempts=1)
    labeled = replace(toy("end", parts=(first, second), assets={"data": "d1"}), kind="sum", labels={"seed": "0"})
    assert fingerprint(labeled) == base
    assert fingerprint(toy("end", parts=(first, second), assets={"data": "d1"}, resources=more)) == base


def test_differences_list_each_component() -> None:
    before = key_of(toy("end", 1, base=toy("a", 1), assets={"data": "d1"}))
    after = key_of(toy("end", 2, base=toy("a", 3), assets={"data": "d2"}))
    shown = [str(item) for item in differences(before.components, after.components)]
    assert shown == ["config.value: 1 -> 2", "inputs.base changed", "assets.data changed"]


class Color(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float


def test_canonical_form_is_sorted_json() -> None:
    value = {"b": (1, 2.5), "a": Color.RED, "p": Point(1, 2.0), "s": {"y", "x"}, "n": None, "t": True}
    assert canonical(value) == '{"a":"red","b":[1,2.5],"n":null,"p":{"x":1,"y":2.0},"s":["x","y"],"t":true}'
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    assert canonical("ü") == '"ü"'
    assert canonical(-0.0) == canonical(0.0)


@pytest.mark.parametrize(
    "value", [object(), Path("/x"), b"bytes", float("nan"), float("inf"), {1: "a"}, lambda: 0, Color, 3 + 4j]
)
def test_canonical_form_rejects_other_types_with_a_remedy(value: Any) -> None:
    with pytest.raises(FingerprintError, match=r"config\.deep\.0.*\. [A-Z]\w+ ") as caught:
        plain({"deep": [value]}, "config")
    assert "config.deep.0" in caught.value.problem


def test_step_rejects_unusable_names_and_functions() -> None:
    for name in ("", "Pet", "a//b", "a/../b", "a b", "f" * 64, "logs/a"):
        with pytest.raises(GraphError, match="name of a step"):
            toy(name)
    with pytest.raises(GraphError, match="top of a module"):
        Step(name="a", run="somewhere", config=Inner())


def test_graph_keeps_the_order_and_rejects_duplicate_names() -> None:
    data = toy("data")
    members = tuple(toy(f"pet/{index}", index, base=data) for index in (2, 0, 1))
    report = toy("report", parts=(*members, data))
    assert list(graph([report])) == ["data", "pet/2", "pet/0", "pet/1", "report"]
    assert list(graph([report, toy("data")])) == ["data", "pet/2", "pet/0", "pet/1", "report"]
    with pytest.raises(GraphError, match="two different steps are called data"):
        graph([report, toy("data", 1)])


def test_graph_rejects_a_cycle_and_supports_a_long_chain() -> None:
    inputs: dict[str, Any] = {}
    first = Step(name="first", run=toy("x").run, config=Inner(), inputs=inputs)
    second = Step(name="second", run=toy("x").run, config=Inner(), inputs={"base": first})
    inputs["base"] = second
    with pytest.raises(GraphError, match="second needs itself: second -> first -> second"):
        graph([second])
    last = toy("s0")
    for index in range(1, 3000):
        last = toy(f"s{index}", base=last)
    assert len(fingerprints(graph([last]))) == 3000


def test_file_digest_is_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.files.SETTLED_NS", -1)
    cache, data = tmp_path / "cache" / "digests.db", tmp_path / "data.txt"
    data.write_text("one")
    first = file_digest(data, cache)
    reads: list[Path] = []
    monkeypatch.setattr("cluster.store.files._hash", lambda path: reads.append(path) or "fresh")
    assert file_digest(data, cache) == first
    assert not reads
    data.write_text("other")
    assert file_digest(data, cache) == "fresh"
    with pytest.raises(StoreError, match="does not exist"):
        file_digest(tmp_path / "absent", cache)


def test_changed_params_are_those_that_differ_from_defaults() -> None:
    class Inner(BaseModel, frozen=True):
        name: str
        size: int = 1

    class Outer(BaseModel, frozen=True):
        rate: float = 0.1
        steps: int = 10
        inner: Inner = Inner(name="a")
        words: tuple[str, ...] = ()
        others: tuple[Inner, ...] = ()

    config = Outer(rate=0.1, steps=20, inner=Inner(name="b"), words=("x", "y"), others=(Inner(name="c"),))
    params = flatten(plain(config))
    assert changed_params(config, params) == {"steps": 20, "inner.name": "b", "words.0": "x", "words.1": "y"}
    assert changed_params(Outer(), flatten(plain(Outer()))) == {}
