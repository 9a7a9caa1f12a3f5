"""Measures the recipe that `clozeline init` writes, on the splits of `splits.py`.

    python benchmarks/quality/default_recipe.py --data FOLDER --work WORK --out RESULTS.jsonl --sets sst2 --seeds 5

For each set and seed it calls `clozeline init TRAIN --unlabeled FILE --test FILE --yes` and `clozeline run`, as a user
would. Appends each row of the leaderboard as a line {"set", "seed", "variant", "row", "accuracy", "macro_f1",
"seconds", "is_delivered"} to the file. Sets and seeds that are already in the file are not measured again, so the
command can be stopped and repeated. `seconds` of the row `total` covers both commands.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS, UNLABELED_SIZE, comma_list, prepare


def run(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the default recipe of a set and seed, and returns its rows."""
    split = prepare(name, seed, options.data, options.work / "splits", options.unlabeled)
    recipe = options.work / "recipes" / f"{name}-{seed}-{options.variant}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    clozeline = str(Path(sys.executable).with_name("clozeline"))
    files = ["--unlabeled", str(split / "unlabeled.jsonl"), "--test", str(split / "test.jsonl")]
    flags = ["--output", str(recipe), "--name", recipe.stem, "--budget", options.budget, "--yes", "--force"]
    subprocess.run([clozeline, "init", str(split / "train.jsonl"), *files, *flags], check=True)
    overrides = [argument for item in options.override for argument in ("-o", item)]
    store = options.work / "store"
    subprocess.run([clozeline, "run", str(recipe), "--store", str(store), *overrides], check=True)
    report = json.loads((store / "reports" / recipe.stem / "report.json").read_text(encoding="utf-8"))
    head = {"set": name, "seed": seed, "variant": options.variant}
    measured = [
        {
            **head,
            "row": row["name"],
            "accuracy": row["accuracy"]["mean"],
            "macro_f1": row["macro_f1"]["mean"],
            "seconds": row["seconds"],
            "is_delivered": row["name"] == report["delivered"]["row"],
        }
        for row in report["rows"]
    ]
    return [*measured, {**head, "row": "total", "seconds": round(time.perf_counter() - start, 1)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(), help="folder that contains the sets of the report half")
    parser.add_argument("--work", type=Path, required=True, help="folder for splits, recipes and the store")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, JSON lines")
    parser.add_argument(
        "--sets", type=comma_list(SEEDS), default=list(SEEDS), help="names of sets, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds per set")
    parser.add_argument("--unlabeled", type=int, default=UNLABELED_SIZE, help="maximum number of unlabeled examples")
    parser.add_argument("--budget", default="30m", help="budget of `clozeline init`")
    parser.add_argument("--variant", default="default", help="name of these settings in the results")
    parser.add_argument(
        "-o", "--override", action="append", default=[], help="key=value that changes the recipe, for an ablation"
    )
    options = parser.parse_args()
    for name in options.sets:
        for seed in SEEDS[name][: options.seeds]:
            known = {(row["set"], row["seed"], row["variant"]) for row in rows.read(options.out)}
            if (name, seed, options.variant) not in known:
                rows.append(options.out, run(name, seed, options))


if __name__ == "__main__":
    main()
