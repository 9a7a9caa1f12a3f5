"""Whatever is in a recipe, a data file or the body of a request: it is read, or an error says what is wrong.

Properties that Hypothesis tests with generated input, the same in each run. No example takes ten seconds of the
processor, and memory does not grow with their number.
"""

from __future__ import annotations

import asyncio
import io
import json
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.init.labeled_file import LabeledFile
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.serving import input_rows
from pipelines.serving.service.request_parsing import RequestError, RequestLimits, parse_items, read_body
from stages.common.data.recognition import recognized_source
from stages.common.data.sources import stream_examples
from stages.common.errors import DataError, InputError
from tests.support.recipe_files import RECIPE
from tests.support.services import Toy

MAX_GROWTH = 300 * 2**20
"""Bytes by which the memory of the process may grow in a property. Imports take some of it."""
ROOT = Path(__file__).parent
MAX_SECONDS = 10
any_input = settings(
    derandomize=True,
    database=None,
    deadline=None,  # it measures the clock, which runs on while the machine does other things
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)

WORDS = (
    "text", "label", "good", "", "sep=;", "\ufeff", "\ud800", "\x00", "\u2028", '"', "'", "{", "[" * 200, "-", "null",
    "NaN", "1e400", "9" * 5000, "~", "&a", "*a", "!!python/name:os", "<<", "\t", "\r\n", "\n\n", ",", ";", "|", "é",
    "语",
)  # fmt: skip
"""Pieces of input that parsers trip over."""
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=12).map("".join)
numbers = (
    st.sampled_from([0, -1, 10**30, 2**63, float("nan"), float("inf"), -0.0, 1e-320]) | st.integers() | st.floats()
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
DEEP = b"[" * 100_000


@pytest.fixture(autouse=True)
def _memory_is_bounded() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB"


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the place of each value in a recipe."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


PATHS = list(paths_of(yaml.safe_load(RECIPE)))


def changed(path: tuple[Any, ...], value: Any, *, renames: bool) -> dict[str, Any]:
    """Returns a valid recipe with another value, or with another key, in one place."""
    recipe: dict[str, Any] = yaml.safe_load(RECIPE)
    target: Any = recipe
    for key in path[:-1]:
        target = target[key]
    if renames and isinstance(target, dict):
        target[str(value)[:50]] = target.pop(path[-1])
    else:
        target[path[-1]] = value
    return recipe


def reads_or_explains(read: Callable[[], object]) -> None:
    """Checks that a reader returns soon, or raises an error with a problem and a remedy."""
    start = time.process_time()
    try:
        read()
    except InputError as error:
        assert error.problem.endswith((".", "!", "?")) and error.remedy.endswith((".", "?")), str(error)
        str(error).encode("utf-8", "backslashreplace")
    assert time.process_time() - start < MAX_SECONDS


@any_input
@given(path=st.sampled_from(PATHS), value=values, renames=st.booleans())
def test_any_value_of_a_recipe(path: tuple[Any, ...], value: Any, renames: bool, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(changed(path, value, renames=renames)), encoding="utf-8")
    reads_or_explains(lambda: read_recipe(file, PipelineConfig))


@any_input
@given(start=st.integers(0, len(RECIPE)), length=st.integers(0, 40), text=texts)
@example(start=0, length=len(RECIPE), text="[" * 100_000)
@example(start=0, length=len(RECIPE), text="- " * 50_000)
@example(start=0, length=len(RECIPE), text="a: &a [*a]")
@example(start=0, length=len(RECIPE), text="".join(f"k{number}: [1, x]\n" for number in range(3000)))
def test_any_text_of_a_recipe(start: int, length: int, text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(encoded(RECIPE[:start] + text + RECIPE[start + length :]))
    reads_or_explains(lambda: read_recipe(file, PipelineConfig))


@any_input
@given(item=texts, value=values)
def test_any_override(item: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    for override in (item, f"data.shots={item}", f"{item}={json.dumps(value)}"):
        reads_or_explains(lambda override=override: read_recipe(file, PipelineConfig, [override]))  # type: ignore[misc]


ROWS = st.lists(st.dictionaries(st.sampled_from(["text", "label", "n"]) | texts, values, max_size=4), max_size=6)
LINES = st.lists(texts, max_size=8).map("\n".join)
CONTENTS = (
    st.binary(max_size=200)
    | LINES.map(encoded)
    | LINES.map(lambda text: encoded(f"text,label\n{text}"))
    | LINES.map(lambda text: text.encode("utf-16", "surrogatepass"))
    | ROWS.map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode())
    | ROWS.map(lambda rows: json.dumps(rows).encode())
)
ENDINGS = ("csv", "tsv", "tab", "json", "jsonl", "txt", "conll", "parquet", "csv.gz", "jsonl.zst")


@any_input
@given(content=CONTENTS, ending=st.sampled_from(ENDINGS))
@example(content=DEEP, ending="json")
@example(content=DEEP, ending="jsonl")
@example(content=b'"' + 100_000 * b"x\n", ending="csv")
def test_any_data_file(content: bytes, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"texts.{ending}"
    file.write_bytes(content)

    def read_strictly() -> None:
        source = recognized_source(str(file)).model_copy(update={"label": "label"})
        for item in stream_examples(source, ["good", "bad"]):
            item.fields["text"].encode()

    def read_for_a_recipe() -> None:
        labeled = LabeledFile(str(file))
        labeled.guess_label(labeled.text_columns(labeled.guess_text(()) or "text"))
        labeled.summarize({"text": "text"}, "label")

    reads_or_explains(read_strictly)
    reads_or_explains(read_for_a_recipe)


@any_input
@given(content=CONTENTS, ending=st.sampled_from(["csv", "tsv", "jsonl", "txt", "parquet"]))
@example(content=DEEP, ending="jsonl")
@example(content=b'text\n"' + 100_000 * b"x\n", ending="csv")
def test_any_file_to_predict(content: bytes, ending: str) -> None:
    def read() -> None:
        stream = io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]
        for row in input_rows.read_rows(stream, f"new.{ending}", None, "text").rows:
            reads_or_explains(lambda row=row: _parsed(row))  # type: ignore[misc]

    reads_or_explains(read)


def _parsed(row: input_rows.InputRow) -> str:
    if row.error is not None:
        raise row.error
    return Toy().parse_row(row.values, row.location)


BODIES = (
    st.binary(max_size=200)
    | texts.map(encoded)
    | values.map(lambda value: json.dumps(value).encode())
    | values.map(lambda value: json.dumps({"texts": value}).encode())
    | st.lists(values, max_size=4).map(lambda items: json.dumps({"inputs": items}).encode())
    | st.lists(texts, max_size=12).map(lambda items: json.dumps({"texts": items}).encode())
)


@any_input
@given(body=BODIES, size=st.integers(1, 60))
@example(body=DEEP, size=1000)
@example(body=b'{"texts": ' + DEEP, size=1000)
@example(body=b'{"texts": [' + b"9" * 100_000 + b"]}", size=1000)
def test_any_body_of_a_request(body: bytes, size: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    limits, start = RequestLimits(max_texts=8, max_bytes=150_000), time.process_time()
    try:
        read = asyncio.run(read_body(chunks(), limits.max_bytes))
        for text in parse_items(read, Toy(), limits):
            text.encode()
    except RequestError as error:
        assert error.status in (400, 413, 422) and error.about["remedy"]
        json.dumps(error.about).encode()
    except DataError as error:
        pytest.fail(f"an error without a status: {error}")
    assert time.process_time() - start < MAX_SECONDS
