"""One run in which a causal model writes texts and rationales and predicts numbers: report, resume, and predictions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support import regression_data
from tests.support.generation_data import tables
from tests.support.services import service
from tests.support.small_models import TOKENIZERS, film_examples, small_model, write_lines

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with both sections, its data, and a small Llama with random weights."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = TOKENIZERS["llama"]()
    small_model("llama", len(tokenizer), tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{**item.fields, "sentence": item.references[0]} for item in tables(12)]
    sentences = write_lines(folder / "tables.jsonl", rows)
    films = [{"text": item.fields["text"], "label": item.label} for item in film_examples(24)]
    reviews = write_lines(folder / "films.jsonl", films)
    source = {"asset": str(sentences), "fields": {"name": "name", "food": "food"}, "label": "sentence"}
    stars = write_lines(
        folder / "stars.jsonl",
        [{"review": item.fields["text"], "stars": item.value} for item in regression_data.reviews(12, 0)],
    )
    numbers = {"asset": str(stars), "fields": {"text": "review"}, "label": "stars"}
    config = {
        "name": "texts",
        "task": {
            "name": "films", "labels": ["rotten", "fresh"], "patterns": {"review": "{text} It was {mask}"},
            "verbalizer": {"rotten": ["bad"], "fresh": ["good"]},
        },
        "data": {
            "pool": {"asset": str(reviews), "fields": {"text": "text"}, "label": "label"},
            "shots": 4, "test_size": 8, "unlabeled_size": 0,
        },
        "backbone": {"asset": str(folder / "model"), "max_length": 48},
        "zero_shot": False,
        "students": {"words": {"kind": "tfidf"}},
        "baseline": {},
        "prompts": {
            "methods": {
                "v2": {"method": "p_tuning_v2", "num_virtual_tokens": 3},
                "adapters": {"method": "lora", "lora": {"rank": 2}},
            },
            "training": {"learning_rate": 0.01, "steps": 3},
            "regression": {
                "stars": {
                    "pattern": "{text} It was {mask}", "words": ["bad", "good"], "range": [1, 5],
                    "data": {"train": numbers, "test": numbers, "train_size": 8},
                },
            },
            "generation": {
                "tables": {
                    "pattern": "{name}: {food}. Text: ", "max_new_tokens": 8,
                    "data": {"train": source, "test": source, "train_size": 8},
                },
            },
        },
        "chain_of_thought": {
            "question": "Q: {text}\nA:",
            "demonstrations": [{"fields": {"text": "A warm film."}, "rationale": "It is good. The answer is fresh."}],
            "methods": {"few_shot": {"num_demonstrations": 1, "max_rationale_tokens": 8}},
        },
    }  # fmt: skip
    path = folder / "texts.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_texts_and_rationales_of_one_run(recipe: Path, clozeline: Clozeline) -> None:
    store = recipe.parent / "store"

    def call(*words: str, stdin: str = "") -> str:
        done = clozeline(*words, "--store", str(store), stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("run", str(recipe))
    report = json.loads((store / "reports" / "texts" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert {"prompts/tables/v2", "prompts/tables/adapters", "chain_of_thought/few_shot"} <= rows.keys()
    assert rows["prompts/tables/v2"]["bleu"]["mean"] >= 0
    assert (rows["prompts/tables/v2"]["num_labeled"], rows["prompts/tables/v2"]["num_test"]) == (8, 12)
    assert rows["prompts/tables/adapters"]["trainable_parameters"] > 0
    assert (rows["chain_of_thought/few_shot"]["num_test"], rows["chain_of_thought/few_shot"]["bleu"]) == (8, None)
    assert {"pearson", "spearman", "mae", "rmse"} <= {name for name, value in rows["prompts/stars/v2"].items() if value}
    assert "Pearson" in (store / "reports" / "texts" / "report.md").read_text()
    again = call("run", str(recipe))
    assert "texts: 0 steps to run" in again
    decoding = "prompts.generation.tables.decoding={strategy: beam, num_beams: 2}"
    planned = call("plan", str(recipe), "-o", decoding)
    to_run = [line.split()[1] for line in planned.splitlines() if line.startswith("RUN ")]
    assert to_run == ["prompts/tables/v2/0", "prompts/tables/adapters/0", "report"]
    for method in ("v2", "adapters"):
        folder = next((store / "prompts" / "tables" / method / "0").iterdir())
        generated = (next(folder.rglob("test_generated.jsonl"))).read_text().splitlines()
        lines = "".join(json.dumps(item.fields) + "\n" for item in tables(12))
        answers = clozeline("predict", str(folder), "--input", "-", stdin=lines)
        assert answers.returncode == 0, answers.stderr
        texts = [json.loads(line)["generated_text"] for line in answers.stdout.splitlines()]
        assert texts == [json.loads(line)["generated"] for line in generated]
    folder = next((store / "prompts" / "stars" / "v2" / "0").iterdir())
    predicted = [json.loads(line) for line in next(folder.rglob("test_predictions.jsonl")).read_text().splitlines()]
    texts = [item.fields["text"] for item in regression_data.reviews(12, 0)]
    answers = clozeline("predict", str(folder), "--input", "-", stdin="\n".join(texts))
    assert answers.returncode == 0, answers.stderr
    values = [json.loads(line)["value"] for line in answers.stdout.splitlines()]
    assert values == pytest.approx([row["predicted"] for row in predicted], abs=1e-3)
    with service(str(folder)) as running:
        example = running.ask("GET", "/").body["example"]["POST /predict"]
        assert running.ask("POST", "/predict", example).status == 200, "the example is valid"
        assert [item["value"] for item in running.predict(texts)] == pytest.approx(values, abs=1e-3)
