"""Logs how busy the driver's machine is during a run, as MLflow's system metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

EVERY_S = 10
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own variable: false turns the gauges off."""


class SystemMetrics:
    """Processor, memory, disk and network (and GPUs where NVIDIA's library is installed), each ten seconds.

    They cost a few milliseconds each time, and nothing before the first step starts: a run that takes everything from
    the store has none.
    """

    def __init__(self, run_id: str, uri: str) -> None:
        self._run_id = run_id
        self._uri = uri
        self._monitor: SystemMetricsMonitor | None = None
        self._begun = os.environ.get(SWITCH, "true").lower() in ("false", "0")

    def start(self) -> None:
        """Begins; a second call does nothing."""
        if self._begun:
            return
        self._begun = True
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(self._run_id, sampling_interval=EVERY_S, tracking_uri=self._uri)
            self._monitor.start()
        except Exception:  # no run shall end for a gauge, whatever the system lets be read
            self._monitor = None

    def stop(self) -> None:
        """Ends; what was read last is written first."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.finish()
