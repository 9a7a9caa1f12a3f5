"""The Python API: the example of the documentation runs, and every kind of texts comes back as what it was."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

import clozeline
from cluster.run.ray_session import Capacity
from stages.common.errors import DataError, InputError
from tests.support.paths import ROOT

PAGE = ROOT / "docs/how-to/python.md"
TEXTS = ["the invoice is late", "the app freezes"]


@pytest.fixture(scope="module")
def example(ray_session: Capacity, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The variables of the example of the documentation after it ran, with `printed`."""
    del ray_session
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        exec(compile(code, str(PAGE), "exec"), names)
        names["folder"] = Path("tickets").absolute()
    return {**names, "printed": printed}


@pytest.fixture
def classifier(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> clozeline.Classifier:
    monkeypatch.chdir(example["folder"].parent)
    return example["classifier"]


def test_example_of_the_documentation_runs(example: dict[str, Any]) -> None:
    assert example["printed"][:2] == ["['money', 'bug']", "('bug', 'money') student/words"]
    assert example["printed"][-1] == "['money']"
    assert {"train.jsonl", "unlabeled.jsonl", "recipe.yaml", "store"} <= {p.name for p in example["folder"].iterdir()}


def test_texts_come_back_as_what_they_were(classifier: clozeline.Classifier) -> None:
    import datasets

    frame = pandas.DataFrame({"n": [1, 2], "text": TEXTS, "label": ["?", "?"]}, index=[5, 7])
    series = classifier.predict(frame["text"])
    assert (series.index.tolist(), series.tolist()) == ([5, 7], ["money", "bug"])
    found = classifier.predict(frame)
    assert found.index.tolist() == [5, 7]
    assert list(found.columns) == ["n", "text", "input_label", "label", "probabilities.bug", "probabilities.money"]
    assert found["label"].tolist() == ["money", "bug"]
    dataset = classifier.predict(datasets.Dataset.from_dict({"n": [1, 2], "text": TEXTS}))
    assert dataset["label"] == ["money", "bug"]
    assert set(dataset.column_names) == {"n", "text", "label", "probabilities.bug", "probabilities.money"}
    assert classifier.predict([{"text": text} for text in TEXTS]) == ["money", "bug"]
    assert classifier.predict(frame["text"].to_numpy()) == ["money", "bug"]
    assert classifier.predict([]) == []
    probabilities = classifier.predict_proba(TEXTS)
    assert probabilities.shape == (2, 2)
    assert probabilities[0].tolist() == found.iloc[0][["probabilities.bug", "probabilities.money"]].tolist()
    assert classifier.predict(TEXTS, threshold=1.0, abstain_label="ask") == ["ask", "ask"]


def test_a_bad_text_is_an_error_that_names_the_row(classifier: clozeline.Classifier) -> None:
    with pytest.raises(DataError, match=r"row 1.*is empty"):
        classifier.predict(["a", " "])
    with pytest.raises(InputError, match="a single text"):
        classifier.predict("a")
    with pytest.raises(DataError, match=r"row 0.*not text"):
        classifier.predict([7])


def test_labeled_texts_need_pairs_or_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: a labeled text is not a pair"):
        clozeline.init([("a", "x"), "b"], folder=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"store"):
        clozeline.load("smoke", store=tmp_path / "store")


def test_select_and_load_use_the_same_store(example: dict[str, Any], classifier: clozeline.Classifier) -> None:
    del classifier
    store, recipe = example["folder"] / "store", example["folder"] / "recipe.yaml"
    path = clozeline.select(recipe, 3, output="next.jsonl", overrides=example["words_only"], store=store)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_top_level_module_only_exports_the_api() -> None:
    tree = ast.parse((ROOT / "clozeline.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr, ast.ImportFrom, ast.Assign]
    assert sorted(clozeline.__all__) == sorted(sys.modules["pipelines.api"].__all__)
    assert all(getattr(clozeline, name).__doc__ for name in clozeline.__all__)
