"""How long `plan` takes on a recipe with a local data file of 1 GB, and how much of it is read.

    python benchmarks/engine_digests.py [GIGABYTES]

Each row is a process of its own: the digest of a file is remembered on disk, by size, time and inode.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINE = b'{"text": "A film that is neither long nor short, and says what it has to say.", "category": "fresh"}\n'


def measure(data: Path, store: Path) -> None:
    """Plans once; prints seconds, bytes read, and a fingerprint."""
    from pipelines.dag.planner import plan_recipe
    from pipelines.run.request import load_request

    before, started = _bytes_read(), time.perf_counter()
    asked = load_request("smoke", [f"data.pool.asset={data}"], store)
    lines = plan_recipe(asked.config, asked.store)
    figures = {"seconds": time.perf_counter() - started, "read": _bytes_read() - before}
    print(json.dumps({**figures, "fingerprint": lines[-1].fingerprint}))


def main(gigabytes: float) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "pool.jsonl")
        block = LINE * 10_000
        with data.open("wb") as file:
            while file.tell() < gigabytes * 1e9:
                file.write(block)
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(f"data file: {data.stat().st_size / 1e9:.2f} GB\n")
        print(f"{'plan':<34}{'seconds':>9}{'GB read':>9}  fingerprint of the last step")
        for row in ("first", "second", "touched (same bytes, new time)", "again", "one line more", "again"):
            if row.startswith("touched"):
                os.utime(data)
            elif row.startswith("one line"):
                with data.open("ab") as file:
                    file.write(LINE)
            found = _apart(data, Path(folder))
            print(f"{row:<34}{found['seconds']:>9.2f}{found['read'] / 1e9:>9.2f}  {found['fingerprint'][:12]}")


def _apart(data: Path, folder: Path) -> dict[str, float | str]:
    words = [sys.executable, __file__, "--measure", str(data), str(folder / "store")]
    environment = {**os.environ, "CLOZELINE_CACHE": str(folder / "cache")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def _bytes_read() -> int:
    """Bytes that this process has read so far, from disk or from the system's memory of it."""
    about = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(about["rchar"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
