"""The command that goes on with a run that did not come to its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from cluster.outcome import Options, Outcome
from cluster.plan import matching
from cluster.step import Step, graph


def command(
    recipe: str,
    overrides: Sequence[str],
    store: str,
    options: Options,
    steps: Iterable[Step],
    outcome: Outcome,
    register: bool = True,
) -> str:
    """The same command, for a shell: all that a person asked for is kept.

    Only what was forced and has been made since is not forced again.

    Args:
        recipe: As typed.
        overrides: As typed.
        store: Its folder or URL.
        options: Of the run.
        steps: The graph.
        outcome: How far the run came.
        register: Whether models were to be registered.
    """
    words = ["clozeline", "run", recipe]
    words += [word for item in overrides for word in ("-o", item)]
    for flag, names in (("--from", options.from_), ("--until", options.until), ("--only", options.only)):
        words += [word for name in names for word in (flag, name)]
    words += [word for name in _still_forced(options, steps, outcome) for word in ("--force", name)]
    if options.keep_going:
        words.append("--keep-going")
    if options.max_parallel is not None:
        words += ["--max-parallel", str(options.max_parallel)]
    if options.verify:
        words.append("--verify")
    if not register:
        words.append("--no-register")
    words += ["--store", store]
    if options.address is not None:
        words += ["--address", options.address]
    return shlex.join(words)


def _still_forced(options: Options, steps: Iterable[Step], outcome: Outcome) -> list[str]:
    """The globs as typed, or if some of their steps were made, the names of the others."""
    if not options.force:
        return []
    nodes = graph(steps)
    forced = [name for name in nodes if name in matching(nodes, options.force) and name in outcome.steps]
    rest = [name for name in forced if name not in outcome.executed]
    return list(options.force) if len(rest) == len(forced) else rest
