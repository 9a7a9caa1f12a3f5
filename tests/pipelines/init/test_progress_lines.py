"""Lines about the progress: none in the first seconds, then one from time to time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from pipelines.init.interaction import Interaction
from pipelines.init.progress_lines import ProgressLines, ScoringProgress


def test_lines_start_after_three_seconds_and_come_every_ten() -> None:
    console = Console(record=True, width=100)
    terminal = Interaction(
        console=console, ask=None, open_output=Path.open, progress=lambda _: nullcontext(lambda *_: None)
    )
    now = 0.0
    progress = ScoringProgress(ProgressLines(terminal, "scoring", lambda: now))
    for second in range(25):
        now = float(second)
        progress.log_progress(second % 10 * 100, 1000, phase="patterns")
    assert console.export_text().splitlines() == [
        "scoring   patterns, pass 1: 300 of 1,000 examples after 3 s",
        "scoring   patterns, pass 2: 300 of 1,000 examples after 13 s",
        "scoring   patterns, pass 3: 300 of 1,000 examples after 23 s",
    ]
