"""How a run is shown: to a person, to a machine (`--json`), or to nobody (`--quiet`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from rich.console import Console

from cluster.events import Event
from cluster.outcome import Outcome
from pipelines.commands import json_events
from pipelines.commands.display import Display
from pipelines.commands.json_events import JsonEvents
from pipelines.commands.terminal import DiscreetConsole, console, errors

Show: TypeAlias = Callable[[Console, int], AbstractContextManager[Callable[[Event], None]]]
"""Makes what events are given to, from a console and the number of steps that will be executed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """`console` for words, `events` for events; `finish` is called with the outcome and the exit status."""

    console: Console
    events: Show
    finish: Callable[[Outcome, int], None]


def choose(*, as_json: bool, is_quiet: bool) -> Shown:
    """What the options of the command line ask for. With both, nothing but the JSON objects is written."""
    words = DiscreetConsole(stderr=True, quiet=True) if is_quiet else errors if as_json else console
    if as_json:
        stream = sys.stdout
        return Shown(words, lambda _, num_steps: JsonEvents(stream, num_steps), partial(json_events.finished, stream))
    return Shown(words, Display, lambda outcome, exit_code: None)
