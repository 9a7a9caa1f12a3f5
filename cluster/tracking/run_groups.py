"""The runs between a pipeline's and its steps': a group for each kind of step, with mean and std over what is in it.

MLflow shows three levels so: the pipeline; a group such as `pet`; in it a run for each pattern and seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.tracking.mlflow_names import group_of
from cluster.tracking.run_log import RunLog

SECONDS = "stage/seconds"


@dataclass(slots=True)
class _Group:
    run: RunLog
    statuses: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Mapping[str, float]] = field(default_factory=dict)


class Groups:
    """The groups of one pipeline run; each is made when its first step comes.

    Args:
        parent: Id of the pipeline's run.
        create: (name of a group) -> a new run below the pipeline's.
    """

    def __init__(self, parent: str, create: Callable[[str], RunLog]) -> None:
        self._parent = parent
        self._create = create
        self._groups: dict[str, _Group] = {}

    def above(self, step: str) -> str:
        """Id of the run below which a step is shown."""
        name = group_of(step)
        if not name:
            return self._parent
        if name not in self._groups:
            self._groups[name] = _Group(self._create(name))
        return self._groups[name].run.run_id

    def ended(self, step: str, status: str, figures: Mapping[str, float]) -> None:
        """Keeps how a step ended, and its last figures; none, where it has no result."""
        group = self._groups.get(group_of(step))
        if group is not None:
            group.statuses[step] = status
            group.figures.pop(step, None)
            if figures:
                group.figures[step] = figures

    def close(self) -> None:
        """Ends all groups with the figures of their steps, as badly as the worst of these."""
        for group in self._groups.values():
            group.run.log_metrics(summary(list(group.figures.values())))
            found = set(group.statuses.values())
            group.run.end(next((bad for bad in ("FAILED", "KILLED") if bad in found), "FINISHED"))
        self._groups.clear()


def summary(figures: list[Mapping[str, float]]) -> dict[str, float]:
    """Mean and sample std (`..._std`, of two or more) of every figure that all steps have; of their seconds the sum.

    >>> summary([{"test/accuracy": 0.5, "stage/seconds": 2.0}, {"test/accuracy": 0.75, "stage/seconds": 3.0}])
    {'stage/steps': 2, 'test/accuracy': 0.625, 'test/accuracy_std': 0.1767766952966369, 'stage/seconds': 5.0}
    """
    found: dict[str, float] = {"stage/steps": len(figures)}
    for name in figures[0] if figures else ():
        values = [item[name] for item in figures if name in item]
        if len(values) < len(figures):
            continue
        found[name] = sum(values) if name == SECONDS else statistics.fmean(values)
        if len(values) > 1 and name != SECONDS:
            found[f"{name}_std"] = statistics.stdev(values)
    return found
