"""The output of a run: in a terminal, as JSON lines, and with --quiet."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.errors import StepFailedError as StepError
from cluster.run.events import (
    Event,
    RayStarting,
    StepFailed,
    StepFinished,
    StepProgress,
    StepQueued,
    StepStarted,
    StepStartedAgain,
    StepWaiting,
)
from pipelines.cli.views import progress_display
from pipelines.cli.views.json_events import JsonEvents
from pipelines.cli.views.progress_display import ProgressDisplay, headline_metric, shortened
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
COLUMNS = 100
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def arguments(steps: int) -> tuple[str, ...]:
    """The arguments of a run of two steps: the data, and a baseline of `steps` optimizer steps."""
    return ("run", "smoke", "--until", "baseline/small/0", "-o", f"baseline.training.steps={steps}", "--no-register")


def run_in_terminal(*command_line: str) -> tuple[int, str]:
    """Runs the command in a terminal of 100 columns. Returns its exit status and output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    for name in ("RAY_ADDRESS", "COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", *command_line]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # Linux raises it when the process has closed the terminal
        pass
    os.close(ours)
    return process.wait(60), written.decode()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_terminal_has_a_line_per_running_step_and_per_finished_step(tmp_path: Path) -> None:
    code, written = run_in_terminal(*arguments(200), "--store", str(tmp_path / "store"))
    assert code == 0, written
    shown = ESCAPES.sub("", written)
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
    moving = [line for line in lines if line.startswith("baseline/small/0") and "/200" in line]
    assert any(re.search(r"loss \d\.\d{3} +[\d,]+/s training +\d:\d\d:\d\d \d+:\d\d left", line) for line in moving)
    assert any(re.match(r"steps .* 1/2 ", line) for line in lines)
    assert max(len(line) for line in lines if "/200" in line) <= COLUMNS, "a line that wraps cannot be redrawn"
    assert sum(bool(re.match(r"finished  baseline/small/0  \d+ s  accuracy \d+\.\d%", line)) for line in lines) == 1
    assert "\x1b[?25h" in written, "the cursor is visible again"


@pytest.mark.timeout(400)
def test_json_output_is_one_object_per_line(tmp_path: Path, clozeline: Clozeline) -> None:
    done = clozeline(*arguments(150), "--json", "--store", str(tmp_path / "store"), timeout=380)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    kinds = [event["event"] for event in events if event["event"] != "step_queued"]  # if workers start slowly
    assert (kinds[0], events[0]["steps"]) == ("run_started", 2)
    assert (kinds[1], kinds[2], kinds[-1]) == ("ray_starting", "step_started", "run_finished")
    assert kinds.count("step_started") == kinds.count("step_finished") == 2
    progress = [event for event in events if event["event"] == "step_progress" and event["phase"] == "training"]
    assert {"step", "done", "total", "loss", "examples_per_s", "eta_s"} <= set(progress[-1])
    assert all(event["examples_per_s"] > 0 for event in progress if "examples_per_s" in event)
    finished = [event for event in events if event["event"] == "step_finished"][-1]
    assert finished["step"] == "baseline/small/0" and finished["seconds"] > 0
    assert 0 <= finished["metrics"]["test/accuracy"] <= 1
    assert (events[-1]["executed"], events[-1]["exit_code"]) == (["data/rotten_tomatoes", "baseline/small/0"], 0)
    assert "smoke: 2 steps to run" in done.stderr, "messages are on stderr"


def test_json_and_quiet_write_only_the_error(clozeline: Clozeline) -> None:
    done = clozeline("run", "unknown", "--json", "--quiet")
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (done.returncode, found["event"], found["exit_code"]) == (2, "error", 2)
    assert "unknown" in found["error"] and found["remedy"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quiet_prints_nothing_if_the_run_succeeds(tmp_path: Path, clozeline: Clozeline) -> None:
    words = ("run", "smoke", "--until", "data/plot_or_quote", "--quiet", "--no-register")
    done = clozeline(*words, "--store", str(tmp_path / "store"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def lines_of(*events: Any) -> list[dict[str, Any]]:
    stream = io.StringIO()
    with JsonEvents(stream, 1) as shown:
        for event in events:
            shown(event)
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()][1:]


def test_failure_in_json_has_remedy_and_log_but_no_secret() -> None:
    error = StepError("pet/a/0", "postgresql://me:secret@host is unreachable.", remedy="Start it.", log="/logs/a.log")
    (found,) = lines_of(StepFailed("pet/a/0", error, retry_in_s=2.0))
    assert {"event": "step_failed", "remedy": "Start it.", "log": "/logs/a.log", "retry_in_s": 2.0}.items() <= (
        found.items()
    )
    assert "secret" not in found["error"]


def test_nan_is_null_in_json() -> None:
    (found,) = lines_of(StepFinished("a", 1.0, cached=False, metrics={"train/loss": float("nan"), "x": 1.0}))
    assert found["metrics"] == {"train/loss": None, "x": 1.0}


def draw(width: int, *events: Any) -> str:
    """Returns the progress lines in a terminal of this width after the events."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20)
    with ProgressDisplay(console, 3, lambda: None) as display:
        for event in events:
            display(event)
    page = Console(file=io.StringIO(), width=width)
    with page.capture() as captured:
        page.print(display.progress.get_renderable())
    return captured.get()


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_long_names_are_shortened_and_no_line_wraps(width: int) -> None:
    name = "prompts/a_task_with_a_very_long_name_indeed/a_method_of_some_length/17"
    info = {"phase": "training", "loss": 0.6931, "examples_per_s": 1234.5, "eta_s": 75.0}
    shown = draw(width, StepStarted(name, 1, "log"), StepProgress(name, 31, 100, info))
    lines = shown.rstrip("\n").splitlines()
    assert len(lines) == 2 and all(len(line) <= width for line in lines)
    assert lines[1].startswith("prom")
    assert all(word in lines[1] for word in ("/17", "31/100", "loss 0.693", "1,234/s", "1:15 left"))


def test_log_of_a_job_has_a_line_with_the_progress_and_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_display, "PRINT_EVERY_S", 0.05)
    stream = io.StringIO()
    info = {"phase": "training", "examples_per_s": 1234.5, "eta_s": 75.0}
    with ProgressDisplay(Console(file=stream, width=80), 9, lambda: None) as display:
        display(StepStarted("a/0", 1, "log"))
        display(StepFinished("a/0", 1.0, cached=False))
        for index in range(1, 7):
            display(StepStarted(f"a/{index}", 1, "log"))
        for index in range(7, 9):
            display(StepQueued(f"a/{index}", "1 CPU"))
        display(StepProgress("a/1", 31, 100, info))
        wait_until(lambda: "31/100" in stream.getvalue())
        for index in range(1, 7):
            display(StepFinished(f"a/{index}", 1.0, cached=False))
    lines = stream.getvalue().splitlines()
    running = [line for line in lines if line.startswith("running") and "31/100" in line]
    assert running[0] == (
        "running   1/9 steps done; a/1 training 31/100, 1,234/s, 1:15 left; a/2 starting; a/3 starting; "
        "a/4 starting; 2 more; 2 queued for 1 CPU"
    )
    assert all(line.isprintable() for line in lines)


def test_time_that_the_run_takes_is_shown_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_display, "PRINT_EVERY_S", 0.02)
    stream = io.StringIO()
    known: list[float] = []
    with ProgressDisplay(Console(file=stream, width=80), 3, lambda: known[0] if known else None) as display:
        display(StepStarted("a/0", 1, "log"))
        wait_until(lambda: "running   0/3 steps done; a/0 starting\n" in stream.getvalue())
        known.append(750.0)
        wait_until(lambda: "running   0/3 steps done, about 12:30 left; a/0 starting\n" in stream.getvalue())
    terminal = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS)
    with ProgressDisplay(terminal, 3, lambda: 750.0) as display:
        page = Console(file=io.StringIO(), width=COLUMNS)
        with page.capture() as captured:
            page.print(display.progress.get_renderable())
    assert re.search(r"steps +0/3 .* 12:30 left", captured.get())


OWNER = "ann@host, process 7"
FAILURE = StepError("a/0", "it broke")


@pytest.mark.parametrize(
    ("waits", "shown"),
    [
        ([RayStarting()], "Ray is starting"),
        ([StepQueued("a/0", "1 GPU"), StepQueued("a/1", "1 GPU")], "2 queued for 1 GPU"),
        ([StepWaiting("a/0", OWNER)], f"1 run by another driver ({OWNER})"),
        ([StepStarted("a/0", 1, "log"), StepFailed("a/0", FAILURE, retry_in_s=60.0)], "1 to be tried again"),
        (
            [StepQueued("a/0", "1 GPU"), StepWaiting("a/1", OWNER)],
            f"1 queued for 1 GPU; 1 run by another driver ({OWNER})",
        ),
    ],
)
def test_log_of_a_job_has_the_line_also_while_all_steps_wait(
    waits: list[Event], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_display, "PRINT_EVERY_S", 0.02)
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, width=80), 3, lambda: None) as display:
        for event in waits:
            display(event)
        line = f"waiting   0/3 steps done; {shown}\n"
        wait_until(lambda: stream.getvalue().count(line) > 2)
        display(StepFinished("a/0", 1.0, cached=True))
        display(StepStarted("a/1", 1, "log"))
        wait_until(lambda: "running   0/3 steps done; a/1 starting\n" in stream.getvalue())
        display(StepFinished("a/1", 1.0, cached=False))
        time.sleep(0.1)
        before = stream.getvalue()
        time.sleep(0.2)
        assert stream.getvalue() == before, "nothing is open"


def wait_until(is_done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_shortened_name_keeps_start_method_and_seed() -> None:
    assert shortened("pet/review/0", 14) == "pet/review/0"
    assert shortened("prompts/rotten_tomatoes/random/1", 20) == "prompt…toes/random/1"


def test_headline_metric_is_the_first_known_metric() -> None:
    assert headline_metric({"train/loss": 0.1, "test/accuracy": 0.8024}) == "accuracy 80.2%"
    assert headline_metric({"held_out/accuracy": 0.5}) == "held-out accuracy 50.0%"
    assert headline_metric({"train/loss": 0.1}) == ""


def test_queued_step_says_what_it_waits_for_until_it_starts() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS)
    with ProgressDisplay(console, 30, lambda: None) as display:
        for index in range(30):
            display(StepQueued(f"pet/{index}", "1 GPU"))
        rows = display.progress.tasks
        assert [task.fields["info"] for task in rows[1:3]] == ["waiting for 1 GPU", "waiting for 1 GPU"]
        assert len(rows) < 20, "a long queue must not fill the terminal"
        display(StepStarted("pet/0", 1, "log"))
        assert [task.fields["info"] for task in display.progress.tasks if task.description == "pet/0"] == ["starting"]
    lines = Console(file=io.StringIO(), width=COLUMNS)
    with ProgressDisplay(lines, 1, lambda: None) as display:
        display(StepQueued("pet/0", "1 GPU"))
        display(StepStarted("pet/1", 1, "log"))
        display(StepQueued("pet/2", "1 CPU"))
    text = "queued    pet/0: waiting for 1 GPU\nstarted   pet/1\n"
    assert lines.file.getvalue() == text, "steps that wait for those that run are no news"  # type: ignore[attr-defined]
    stream = io.StringIO()
    JsonEvents(stream, 1)(StepQueued("pet/0", "1 GPU"))
    assert json.loads(stream.getvalue()).items() >= {"event": "step_queued", "waits_for": "1 GPU"}.items()


def test_second_attempt_is_one_line() -> None:
    lines = Console(file=io.StringIO(), width=COLUMNS)
    event = StepStartedAgain("pet/review/1", 2, "log", 3.24)
    with ProgressDisplay(lines, 1, lambda: None) as display:
        display(event)
    assert lines.file.getvalue() == "started   pet/review/1 again on another node: 3.2 times as long as others\n"  # type: ignore[attr-defined]
    stream = io.StringIO()
    JsonEvents(stream, 1)(event)
    fields = {"event": "step_started_again", "step": "pet/review/1", "attempt": 2, "ratio": 3.24}
    assert json.loads(stream.getvalue()).items() >= fields.items()
