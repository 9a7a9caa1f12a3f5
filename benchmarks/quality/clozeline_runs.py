"""Measures clozeline on the splits of `splits.py`: every row of its report, for each set and seed.

    python benchmarks/quality/clozeline_runs.py --data FOLDER --work WORK --out RESULTS.jsonl --sets sst2 --seeds 5

Each seed has a recipe (WORK/recipes). All run into one store (WORK/store), so the command can be stopped and repeated.
A recipe trains sub-models on SmolLM2-135M (LoRA), with `--ipet` also a second generation; a probe on MPNet, tuned on
pairs first; the ensemble of the sub-models and the ensemble of all members; a fine-tuned MiniLM student; and an MPNet
student, frozen with a linear head or (`--full`) fine-tuned. The encoders are those of `baselines.py`. With `--ipet` the
ensemble that teaches the students contains the second generation. Results that are already in the file are not measured
again.

Appends each result as a line {"set", "seed", "row", "accuracy", "macro_f1", "seconds"} to the file. A line does not
contain the values of `--unlabeled` and `--longer`: use a separate file for other values.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS, prepare
from pipelines.init.assets import MINILM, MPNET, SMOLLM2

TASKS: dict[str, dict[str, Any]] = {
    "sst2": {
        "labels": ["negative", "positive"],
        "patterns": {
            "review": "Review: {text}\nSentiment:{mask}",
            "summary": "{text}\nIn summary, the film is{mask}",
            "critic": 'A film critic wrote: "{text}"\nThe critic\'s opinion of the film is{mask}',
        },
        "verbalizer": {
            "negative": {"review": ["negative"], "summary": ["bad"], "critic": ["negative"]},
            "positive": {"review": ["positive"], "summary": ["good"], "critic": ["positive"]},
        },
    },
    "ag_news": {
        "labels": ["World", "Sports", "Business", "Sci/Tech"],
        "patterns": {"topic": "{text}\nTopic:{mask}", "section": "News: {text}\nThis belongs to the section{mask}"},
        "verbalizer": {
            "World": ["World", "politics"],
            "Sports": ["Sports", "sports"],
            "Business": ["Business", "business"],
            "Sci/Tech": ["Technology", "technology"],
        },
    },
    "rte": {
        "labels": ["entailment", "not_entailment"],
        "patterns": {
            "true": "{text_a}\nQuestion: {text_b|rstrip_punct}. True or False?\nAnswer:{mask}",
            "follows": 'Premise: {text_a}\nDoes it follow that "{text_b|rstrip_punct}"? Yes or no?{mask}',
        },
        "verbalizer": {
            "entailment": {"true": ["True"], "follows": ["Yes"]},
            "not_entailment": {"true": ["False"], "follows": ["No"]},
        },
        "truncation": "longest",
    },
    "eprstmt": {
        "labels": ["Negative", "Positive"],
        "patterns": {"review": "评论：{text}\n情感：{mask}", "said": "{text}\nThe sentiment of this review is{mask}"},
        "verbalizer": {
            "Negative": {"review": ["差"], "said": ["negative"]},
            "Positive": {"review": ["好"], "said": ["positive"]},
        },
    },
}
LENGTHS = {"sst2": 72, "ag_news": 88, "rte": 128, "eprstmt": 112}
"""Maximum number of tokens of a text in a pattern."""

STEPS = {"sst2": 24, "ag_news": 40, "rte": 24, "eprstmt": 24}
"""Optimizer steps of a sub-model, with eight examples each."""

ENSEMBLE = {"average": "probabilities", "weights": "balanced", "calibration": "unlabeled"}


def recipe(name: str, seed: int, split: Path, *, ipet: bool, longer: float) -> dict[str, Any]:
    """Returns the recipe of a set and seed. Students train for `longer` times the usual number of steps."""
    task = TASKS[name]
    fields = {field: field for field in (("text_a", "text_b") if name == "rte" else ("text",))}

    def source(part: str, label: str | None = "label") -> dict[str, Any]:
        return {"asset": str(split / f"{part}.jsonl"), "fields": fields, **({"label": label} if label else {})}

    training = {"learning_rate": 1e-3, "batch_size": 8, "steps": STEPS[name]}
    return {
        "name": f"{name}-{seed}",
        "seed": seed,
        "task": {"name": name, **task},
        "data": {
            "train": source("train"),
            "test": source("test"),
            "unlabeled": source("unlabeled", None),
            "unlabeled_size": 10**9,  # the file has its final size
        },
        "backbone": {"asset": SMOLLM2.asset, "max_length": LENGTHS[name]},
        "students": {"small": {"asset": MINILM.asset, "max_length": 128}},
        "zero_shot": seed == SEEDS[name][0],
        "pet": {
            "tune": "lora",
            "lora": {"rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]},
            "training": training,
            **({"ipet": {"generations": 1}} if ipet else {}),
        },
        "members": {
            "mpnet": {
                "kind": "probe",
                "encoder": {"asset": MPNET.asset, "max_length": 128},
                "regularization_c": 10.0,
                "contrastive": {"num_pairs": 320 if name == "ag_news" else None},
            }
        },
        "ensemble": ENSEMBLE,
        "distill": {"training": student_training(5e-5, round(200 * longer))},
        "baseline": {"training": {"learning_rate": 5e-5, "batch_size": 8, "steps": 50, "warmup_ratio": 0.1}},
    }


def student_training(learning_rate: float, steps: int) -> dict[str, Any]:
    """Returns the training settings of a fully fine-tuned student."""
    return {"learning_rate": learning_rate, "batch_size": 16, "steps": steps, "warmup_ratio": 0.1}


def variants(base: dict[str, Any], *, full: bool, longer: float) -> dict[str, dict[str, Any]]:
    """Returns the recipe for each suffix of the rows. Steps that two recipes share run once."""
    head = {"asset": MPNET.asset, "max_length": 128, "tune": "head"}
    frozen = {**base, "students": {"small": head}, "distill": {}, "baseline": None, "zero_shot": False}
    no_probe = {key: value for key, value in frozen.items() if key != "members"}
    first_generation = {**no_probe, "pet": {key: value for key, value in base["pet"].items() if key != "ipet"}}
    recipes = {"mpnet_head": frozen, "minilm": base, "submodels": first_generation}
    if full:
        student = {"asset": MPNET.asset, "max_length": 128}
        recipes["mpnet"] = {
            **frozen,
            "students": {"small": student},
            "distill": {"training": student_training(2e-5, round(120 * longer))},
        }
    return recipes | ({"ipet": no_probe} if "ipet" in base["pet"] else {})


def run(name: str, seed: int, options: argparse.Namespace, known: set[str]) -> list[dict[str, Any]]:
    """Runs the variants of a set and seed that are not among the `known` rows, and returns the new rows."""
    split = prepare(name, seed, options.data, options.work / "splits", options.unlabeled)
    base = recipe(name, seed, split.absolute(), ipet=options.ipet, longer=options.longer)
    results: dict[str, dict[str, Any]] = {}
    for suffix, content in variants(base, full=options.full, longer=options.longer).items():
        if known & {f"student/{suffix}", f"ensemble/{suffix}"}:
            continue
        path = options.work / "recipes" / f"{name}-{seed}-{suffix}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**content, "name": path.stem}, sort_keys=False, allow_unicode=True))
        clozeline = Path(sys.executable).with_name("clozeline")
        command = [str(clozeline), "run", str(path), "--store", str(options.work / "store")]
        subprocess.run(command, check=True)
        report = json.loads((options.work / "store" / "reports" / path.stem / "report.json").read_text())
        for row in report["rows"]:
            title = f"{row['kind']}/{suffix}" if row["kind"] in ("student", "ensemble", "baseline") else row["name"]
            scores = {key: row[key]["mean"] for key in ("accuracy", "macro_f1")}
            results[title] = {"set": name, "seed": seed, "row": title, **scores, "seconds": row["seconds"]}
    return [row for title, row in results.items() if not known & {title, f"{title.rpartition('/')[0]}/*"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for splits, recipes and the store")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, JSON lines")
    parser.add_argument("--sets", default=",".join(TASKS), help="names of sets, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds per set")
    parser.add_argument("--unlabeled", type=int, default=1000, help="maximum number of unlabeled examples")
    parser.add_argument("--ipet", action="store_true", help="also train a second generation of sub-models")
    parser.add_argument("--full", action="store_true", help="also train a fine-tuned MPNet student")
    parser.add_argument("--longer", type=float, default=1.0, help="factor for the steps of the students")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for seed in SEEDS[name][: options.seeds]:
            known = {row["row"] for row in rows.read(options.out) if row["set"] == name and seed in rows.seeds(row)}
            rows.append(options.out, run(name, seed, options, known))


if __name__ == "__main__":
    main()
