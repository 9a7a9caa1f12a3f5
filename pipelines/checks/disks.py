"""Whether weights can lie where `offload_to` says, looked at before a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import SwapError
from cluster.step import Step
from cluster.workers import swap
from stages.errors import InputError


def check(steps: Iterable[Step]) -> None:
    """Looks for the folders and for what DeepSpeed needs to use them; on a cluster (`RAY_ADDRESS`) the workers look.

    Raises:
        InputError: a folder, a C++ compiler or libaio.h is missing on this machine.
    """
    places = {step.resources.offload_to for step in steps if step.resources.offload_to}
    if not places or os.environ.get("RAY_ADDRESS"):
        return
    try:
        swap.check_tools()
        for place in sorted(places):
            swap.check_folder(Path(place))
    except SwapError as error:
        raise InputError(error.problem, error.remedy, key="resources.offload_to") from error
