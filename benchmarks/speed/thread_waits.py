"""Measures what it is worth that threads of torch wait for each other briefly (`GOMP_SPINCOUNT` of workers).

    python benchmarks/speed/thread_waits.py [--quick] [--steps 12] [--turns 3]

Trains MPNet in new processes with two threads, in turns with the default of OpenMP and with the setting of workers, on
free cores and while another process computes all the time. Prints seconds and CPU seconds per step, medians over
the turns, and the ratio of both settings. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.machine import machine
from benchmarks.speed.timing import markdown_table
from cluster.run.ray_session import WORKER_ENVIRONMENT
from pipelines.default_models import MINILM, MPNET
from stages.common.models.batching import autocast, wants_bf16
from stages.common.models.model_files import model_folder

VARIABLE = "GOMP_SPINCOUNT"
SETTINGS = {"default": {}, "workers": {VARIABLE: WORKER_ENVIRONMENT[VARIABLE]}}
BATCH_SIZE, LENGTH, WARMUP_STEPS = 16, 48, 2
NUM_THREADS = 2


def train(model: str, num_steps: int) -> None:
    """Trains a model on random tokens, and prints seconds and CPU seconds per step as JSON."""
    torch.set_num_threads(NUM_THREADS)
    network: Any = AutoModel.from_pretrained(model_folder(model)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    tokens_BL = torch.randint(100, 10_000, (BATCH_SIZE, LENGTH))
    start, cpu_start = 0.0, 0.0
    for step in range(WARMUP_STEPS + num_steps):
        if step == WARMUP_STEPS:
            start, cpu_start = time.perf_counter(), time.process_time()
        with autocast(wants_bf16("auto")):
            states = network(tokens_BL).last_hidden_state
        states.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = [(time.perf_counter() - start) / num_steps, (time.process_time() - cpu_start) / num_steps]
    print(json.dumps(seconds))


@contextmanager
def busy_process(is_on: bool) -> Iterator[None]:
    """Runs a process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_on else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def measure(setting: str, model: str, num_steps: int) -> tuple[float, float]:
    """Returns seconds and CPU seconds per step in a new process."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | SETTINGS[setting]
    command = [sys.executable, str(Path(__file__)), "--model", model, "--steps", str(num_steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, cpu_seconds = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one step of a small model, to try the benchmark")
    parser.add_argument("--steps", type=int, default=12, help="training steps per process")
    parser.add_argument("--turns", type=int, default=3, help="processes per setting")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        train(options.model, options.steps)
        return
    num_steps, num_turns = (1, 1) if options.quick else (options.steps, options.turns)
    model = MINILM.asset if options.quick else MPNET.asset
    rows = []
    for place, is_busy in (("free cores", False), ("next to a busy process", True)):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
        with busy_process(is_busy):
            for _ in range(num_turns):
                for name, values in found.items():
                    values.append(measure(name, model, num_steps))
        for column, unit in enumerate(("seconds", "CPU seconds")):
            default, workers = (median(item[column] for item in values) for values in found.values())
            rows.append([f"{place}, {unit} per step", f"{default:.2f}", f"{workers:.2f}", f"{default / workers:.2f}"])
    print(machine())
    print(markdown_table(["", "default", "workers", "ratio"], rows))


if __name__ == "__main__":
    main()
