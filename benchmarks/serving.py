"""How the service does under load: many clients at once, for a while.

    python benchmarks/serving.py                                   # the smoke recipe, run first: its student
    python benchmarks/serving.py store/distill/0/*/files/model     # any classifier, or the folder of a prompt
    python benchmarks/serving.py --recipe demo --store store       # what a recipe's run has left
    python benchmarks/serving.py --recipe demo --store store --prompts ppt     # its prompts, all tasks in turn
    python benchmarks/serving.py FOLDER --clients 50 --seconds 60 --texts 1 --input texts.txt

Each client sends its next request when it has the answer to the last, over one connection. The clients run in processes
of their own, as many as --workers, and share the machine with the service: on few cores they slow it down.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from pipelines.cli.app import main; main()"]
TEXTS = (
    "A joy from start to end.",
    "Dull, long, and without a single idea of its own.",
    "The plot, in three acts, brings a hero home who never left; the music is the best of it, and the ending is not.",
)


def main() -> None:
    options = _options()
    texts = TEXTS
    if options.input:
        texts = tuple(line.strip() for line in options.input.read_text().splitlines() if line.strip())[:1000]
    with tempfile.TemporaryDirectory() as folder:
        served = _served(options, Path(folder))
        with service(served) as port:
            tasks = tuple(_get(port, "/", json.loads).get("tasks", ()))
            shares = [len(range(number, options.clients, options.workers)) for number in range(options.workers)]
            with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
                jobs = [(port, share, options.seconds, texts, options.texts, tasks) for share in shares if share]
                begun = time.perf_counter()
                told = pool.starmap(clients, jobs)
                seconds = time.perf_counter() - begun
            figures = _get(port, "/metrics", _figures)
    table(
        options, seconds, [item for times, _ in told for item in times], sum((Counter(e) for _, e in told), Counter())
    )
    batches, size = figures["clozeline_batch_texts_count"], figures["clozeline_batch_texts_sum"]
    print(f"batches          {batches:,.0f} of {size / max(batches, 1):.1f} texts in the mean")
    for bound in ("1.0", "4.0", "16.0", "32.0", "64.0"):
        share = figures[f'clozeline_batch_texts_bucket{{le="{bound}"}}'] / max(batches, 1)
        print(f"  up to {float(bound):3.0f} texts  {share:6.1%}")
    print(f"model            {figures['clozeline_batch_seconds_sum']:.1f} s in all")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load on clozeline serve.")
    parser.add_argument("folder", nargs="?", help="a classifier, or a prompt's step; left out: the recipe's student")
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--store", type=Path, help="of the recipe's run; left out: a new one, which is run first")
    parser.add_argument("--prompts", help="the recipe's prompts of this method, instead of its student")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--texts", type=int, default=1, help="texts a request")
    parser.add_argument("--workers", type=int, default=1, help="processes that the clients share")
    parser.add_argument("--input", type=Path, help="a file of texts, a line each; the first 1,000 are sent in turn")
    return parser.parse_args()


def _served(options: argparse.Namespace, folder: Path) -> list[str]:
    """The words after `clozeline serve`."""
    if options.folder:
        return [options.folder]
    store = options.store or folder / "store"
    if not options.store:
        print(f"running {options.recipe} first", file=sys.stderr)
        words = ["run", options.recipe, "--store", str(store), "--no-register"]
        subprocess.run([*COMMAND, *words], env=_environment(), check=True, stdout=subprocess.DEVNULL)
    return [options.recipe, "--store", str(store), *(["--prompts", options.prompts] if options.prompts else [])]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def service(words: Sequence[str]) -> Iterator[int]:
    """A service in a process of its own, when it is ready; its port."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *words, "--port", "0"], env=_environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        port = int(first.split("http://127.0.0.1:")[1].split("/")[0])
        while "ready" not in process.stdout.readline():
            if process.poll() is not None:
                sys.exit("the service did not start")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def clients(
    port: int, count: int, seconds: float, texts: Sequence[str], per_request: int, tasks: Sequence[str]
) -> tuple[list[float], dict[str, int]]:
    """Seconds of every answered request, and how often something went wrong, of `count` clients in this process.

    Of several tasks each request is for the next one.
    """
    times: list[float] = []
    errors: Counter[str] = Counter()
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number
        while time.monotonic() < until:
            asked = {"texts": [texts[(turn + place) % len(texts)] for place in range(per_request)]}
            body = json.dumps({**asked, "task": tasks[turn // per_request % len(tasks)]} if len(tasks) > 1 else asked)
            turn += per_request
            begun = time.perf_counter()
            try:
                connection.request("POST", "/predict", body.encode())
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, HTTPException, ValueError) as error:
                errors[type(error).__name__] += 1
                connection.close()
                continue
            if response.status == 200 and len(answer["predictions"]) == per_request:
                times.append(time.perf_counter() - begun)
            else:
                errors[str(response.status)] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, dict(errors)


def _get(port: int, path: str, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    found = read(connection.getresponse().read().decode())
    connection.close()
    return found


def _figures(text: str) -> dict[str, float]:
    """What Prometheus would read."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def table(options: argparse.Namespace, seconds: float, times: Sequence[float], errors: Counter[str]) -> None:
    """Prints what the clients saw."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    print(f"clients          {options.clients}, {options.texts} texts a request, {options.seconds:.0f} s, "
          f"{os.cpu_count()} cores")  # fmt: skip
    print(f"requests         {len(times):,}, {len(times) / seconds:,.0f} a second")
    print(f"texts            {len(times) * options.texts / seconds:,.0f} a second")
    print(f"p50, p99, most   {1000 * cuts[49]:.1f} ms, {1000 * cuts[98]:.1f} ms, {1000 * max(times):.1f} ms")
    print(f"errors           {sum(errors.values())} {dict(errors) or ''}")


if __name__ == "__main__":
    main()
