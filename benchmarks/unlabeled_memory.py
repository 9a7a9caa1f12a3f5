"""Measures the peak memory of reading many unlabeled rows: for a new recipe (`init`), and in the first step of a run.

    python benchmarks/unlabeled_memory.py [--quick] [--rows 100000 1000000]

Writes JSON lines of about 100 bytes to a temporary folder, and reads them in one process per row of the table. The
memory before reading includes all imports. The ratio is that of the peak to the peak with the first number of rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine
from pipelines.init.labeled_file import LabeledFile
from pipelines.init.task_data import MAX_UNLABELED_ROWS
from stages.common.data.config import Source
from stages.splits.config import DataConfig, SplitsConfig
from stages.splits.stage import sample_splits

READERS = ("init", "run")


def write_rows(path: Path, num_rows: int) -> None:
    """Writes rows of different texts."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            text = f"message {number} of a customer with a question about the invoice of order {number % 97_711}"
            file.write(json.dumps({"text": text}) + "\n")


def peak_mib() -> float:
    """Returns the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(reader: str, folder: Path) -> None:
    """Reads the rows in this process; prints MiB before, MiB at the peak, and seconds."""
    before, start = peak_mib(), time.perf_counter()
    if reader == "init":
        LabeledFile(str(folder / "rows.jsonl"), max_rows=MAX_UNLABELED_ROWS).summarize_texts({"text": "text"})
    else:
        train = Source(asset=str(folder / "train.csv"), label="label")
        data = DataConfig(train=train, test=train, unlabeled=Source(asset=str(folder / "rows.jsonl")))
        sample_splits(SplitsConfig(data=data, labels=("a", "b"), fields=("text",)))
    print(before, peak_mib(), time.perf_counter() - start)


def main() -> None:
    """Runs each reader on each number of rows, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="read 1,000 and 10,000 rows, to try the benchmark")
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of rows (100,000 and 1,000,000)")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        read(options.reader, options.folder)
        return
    print(f"{machine()}\n")
    print("| rows | MiB of the file | reader | MiB before | MiB at the peak | ratio | seconds |")
    print("|--:|--:|---|--:|--:|--:|--:|")
    first_peaks: dict[str, float] = {}
    for num_rows in options.rows or ((1_000, 10_000) if options.quick else (100_000, 1_000_000)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            write_rows(path, num_rows)
            (Path(folder) / "train.csv").write_text("text,label\nx,a\ny,b\n", encoding="utf-8")
            size = path.stat().st_size / 2**20
            for reader in READERS:
                command = [sys.executable, __file__, "--reader", reader, "--folder", folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                before, peak, seconds = map(float, done.stdout.split())
                cells = f"{before:.0f} | {peak:.0f} | {peak / first_peaks.setdefault(reader, peak):.2f} | {seconds:.1f}"
                print(f"| {num_rows:,} | {size:.0f} | {reader} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
