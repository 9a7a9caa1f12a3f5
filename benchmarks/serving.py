"""Measures throughput, latency and errors of the service under load from many clients.

    python benchmarks/serving.py                                      # runs the recipe smoke and serves its classifier
    python benchmarks/serving.py store/distill/small/0/*/files/*/model   # any classifier, or the folder of a prompt
    python benchmarks/serving.py --recipe demo --store store       # the classifier of a finished run
    python benchmarks/serving.py --recipe demo --store store --prompts ppt     # its prompts, alternating the tasks
    python benchmarks/serving.py FOLDER --clients 50 --seconds 60 --texts 1 --input texts.txt

Each client sends its next request after the response to the previous one, over one connection. The clients run in
separate processes, the number of which is --workers. They share the machine with the service and slow it down if there
are few cores.
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
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Load:
    """What each client sends, to which port, and for how long. Several tasks are requested in turn."""

    port: int
    seconds: float
    texts: Sequence[str]
    texts_per_request: int
    tasks: Sequence[str]

    def request(self, turn: int) -> bytes:
        """Returns the body of a request that starts with text number `turn`."""
        texts = [self.texts[(turn + index) % len(self.texts)] for index in range(self.texts_per_request)]
        body: dict[str, Any] = {"texts": texts}
        if len(self.tasks) > 1:
            body["task"] = self.tasks[turn // self.texts_per_request % len(self.tasks)]
        return json.dumps(body).encode()


@dataclass(slots=True)
class Answers:
    """Seconds of each successful request, and the number of errors of each kind."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Answers) -> None:
        """Adds the answers of another process."""
        self.seconds += other.seconds
        self.errors += other.errors


def main() -> None:
    """Starts the service, runs the clients and prints the measurements."""
    options = parse_options()
    texts: Sequence[str] = TEXTS
    if options.input:
        texts = [line.strip() for line in options.input.read_text().splitlines() if line.strip()][:1000]
    answers = Answers()
    with tempfile.TemporaryDirectory() as folder, service(model_arguments(options, Path(folder))) as port:
        tasks = tuple(get(port, "/", json.loads).get("tasks", ()))
        load = Load(port, options.seconds, texts, options.texts, tasks)
        counts = [len(range(number, options.clients, options.workers)) for number in range(options.workers)]
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            start = time.perf_counter()
            for part in pool.starmap(run_clients, [(load, count) for count in counts if count]):
                answers.add(part)
            wall_s = time.perf_counter() - start
        metrics = get(port, "/metrics", parse_metrics)
    print_answers(options, wall_s, answers)
    print_batches(metrics)


def parse_options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", help="a classifier or the folder of a prompt; default: the recipe's classifier"
    )
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--store", type=Path, help="store with a run of the recipe; default: runs it in a new store")
    parser.add_argument("--prompts", help="serve the prompts of this method instead of the classifier")
    parser.add_argument("--quick", action="store_true", help="4 clients for 3 seconds, to try the benchmark")
    parser.add_argument("--clients", type=int, help="number of clients (50; with --quick 4)")
    parser.add_argument("--seconds", type=float, help="duration of the load (60; with --quick 3)")
    parser.add_argument("--texts", type=int, default=1, help="texts per request")
    parser.add_argument("--workers", type=int, default=1, help="number of processes for the clients")
    parser.add_argument("--input", type=Path, help="file with one text per line; uses the first 1,000 in turn")
    options = parser.parse_args()
    options.clients = options.clients or (4 if options.quick else 50)
    options.seconds = options.seconds or (3 if options.quick else 60)
    return options


def model_arguments(options: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the arguments of `clozeline serve`. Runs the recipe first if no store is given."""
    if options.folder:
        return [options.folder]
    store = options.store or folder / "store"
    if not options.store:
        print(f"running {options.recipe} first", file=sys.stderr)
        arguments = ["run", options.recipe, "--store", str(store), "--no-register"]
        subprocess.run([*COMMAND, *arguments], env=_environment(), check=True, stdout=subprocess.DEVNULL)
    return [options.recipe, "--store", str(store), *(["--prompts", options.prompts] if options.prompts else [])]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def service(arguments: Sequence[str]) -> Iterator[int]:
    """Starts a service in a separate process; yields its port after it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *arguments, "--port", "0"], env=_environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        if "http://127.0.0.1:" not in first_line:
            sys.exit("the service did not start")
        port = int(first_line.split("http://127.0.0.1:")[1].split("/")[0])
        while "ready" not in process.stdout.readline():
            if process.poll() is not None:
                sys.exit("the service did not start")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def run_clients(load: Load, count: int) -> Answers:
    """Runs `count` clients in threads of this process."""
    answers = Answers()
    until = time.monotonic() + load.seconds

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", load.port, timeout=60)
        turn = number
        while time.monotonic() < until:
            body = load.request(turn)
            turn += load.texts_per_request
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", body)
                response = connection.getresponse()
                content = json.loads(response.read())
            except (OSError, HTTPException, ValueError) as error:
                answers.errors[type(error).__name__] += 1
                connection.close()
                continue
            if response.status == 200 and len(content["predictions"]) == load.texts_per_request:
                answers.seconds.append(time.perf_counter() - start)
            else:
                answers.errors[str(response.status)] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def get(port: int, path: str, parse: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Sends a GET request to the service and parses the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    content = parse(connection.getresponse().read().decode())
    connection.close()
    return content


def parse_metrics(text: str) -> dict[str, float]:
    """Parses the text format of Prometheus."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def print_answers(options: argparse.Namespace, wall_s: float, answers: Answers) -> None:
    """Prints what the clients measured."""
    seconds = answers.seconds
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    setting = f"{options.clients}, {options.texts} texts per request, {options.seconds:.0f} s, {os.cpu_count()} cores"
    print(f"clients          {setting}")
    print(f"requests         {len(seconds):,}, {len(seconds) / wall_s:,.0f} per second")
    print(f"texts            {len(seconds) * options.texts / wall_s:,.0f} per second")
    print(f"p50, p99, max    {1000 * cuts[49]:.1f} ms, {1000 * cuts[98]:.1f} ms, {1000 * max(seconds):.1f} ms")
    print(f"errors           {answers.errors.total()} {dict(answers.errors) or ''}")


def print_batches(metrics: dict[str, float]) -> None:
    """Prints the batches that the service formed."""
    num_batches, num_texts = metrics["clozeline_batch_texts_count"], metrics["clozeline_batch_texts_sum"]
    print(f"batches          {num_batches:,.0f}, {num_texts / max(num_batches, 1):.1f} texts on average")
    for bound in ("1.0", "4.0", "16.0", "32.0", "64.0"):
        fraction = metrics[f'clozeline_batch_texts_bucket{{le="{bound}"}}'] / max(num_batches, 1)
        print(f"  up to {float(bound):3.0f} texts  {fraction:6.1%}")
    print(f"model            {metrics['clozeline_batch_seconds_sum']:.1f} s in total")


if __name__ == "__main__":
    main()
