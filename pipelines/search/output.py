"""What a search shows and writes: the table of its trials, and the recipe with the best setting and its reasons."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from pipelines.init.recommendations import write_values
from pipelines.schema.config import PipelineConfig
from pipelines.search.checks import candidate_values
from pipelines.search.driver import Difference, SearchResult
from pipelines.search.trials import TrialResult


def trial_table(result: SearchResult) -> Table:
    """Returns the trials as a table for the terminal: by rung, the longest first, and the best first."""
    table = Table("candidate", "rung", "steps", "accuracy", "seconds", box=None)
    for item in sorted(result.trials, key=lambda item: (-item.trial.rung, item.held_out.rank)):
        mark = "*" if item is result.winner else ""
        table.add_row(
            escape(item.trial.candidate.name + mark),
            str(item.trial.rung),
            str(item.trial.num_steps),
            accuracy_text(item),
            f"{item.seconds:.0f}{' (cached)' if item.is_cached else ''}",
        )
    return table


def accuracy_text(item: TrialResult) -> str:
    """Returns the accuracy with its standard error."""
    return f"{100 * item.held_out.accuracy:.1f}% ± {100 * item.standard_error:.1f}"


def comparison(winner: TrialResult, own: TrialResult, gain: Difference) -> str:
    """Returns how the best setting compares with that of the recipe, in words."""
    if winner.trial.candidate.is_own:
        return f"{accuracy_text(winner)}: no other setting is more accurate"
    gained = f"{100 * gain.mean:+.1f} points ± {100 * gain.standard_error:.1f}"
    text = f"{accuracy_text(winner)}, {own.trial.candidate.method} of the recipe {accuracy_text(own)}: {gained}"
    return text if gain.mean > 2 * gain.standard_error else f"{text}, which is within the noise"


def write_winner(config: PipelineConfig, result: SearchResult, gain: Difference, path: Path) -> None:
    """Writes the recipe with the best setting as the only method of its prompts, and the reasons as comments.

    Raises:
        InputError: `path` exists or cannot be written.
    """
    winner, own = result.winner, result.own
    assert winner is not None and own is not None
    candidate = winner.trial.candidate
    num_settings = len({item.trial.candidate.name for item in result.trials})
    lines = [
        f"# {config.name} with the best of {num_settings} settings of its prompts, from clozeline recommend --search.",
        f"# Method: {candidate.method} with pattern {candidate.pattern}, trained for {winner.trial.num_steps} steps.",
        f"# Accuracy: {comparison(winner, own, gain)}.",
        "# Each accuracy is cross-validated on the labeled examples, with its standard error. That of the best of many",
        "# settings is too high on average; the test set of a run measures it without this bias.",
    ]
    write_values(candidate_values(config, candidate), lines, path)
