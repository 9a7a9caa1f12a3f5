"""Logs how busy the driver's machine is during a run, as MLflow's system metrics."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SAMPLING_INTERVAL_S = 10
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own variable; false disables system metrics."""


class SystemMetrics:
    """Logs CPU, memory, disk and network (and GPUs if NVIDIA's library is installed) every ten seconds.

    Each sample takes a few milliseconds. Sampling starts with the first step, so a run of cached steps has no samples.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._monitor: SystemMetricsMonitor | None = None
        self._may_start = os.environ.get(SWITCH, "true").lower() not in ("false", "0")

    def start(self, run_id: str) -> None:
        """Starts sampling for a run; a second call does nothing."""
        with self._lock:
            if not self._may_start:
                return
            self._may_start = False
            # A system that cannot be measured must not end the run.
            with suppress(Exception):
                # MLflow's first import follows `server.client_of`, which sets its environment.
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: PLC0415  (slow)

                monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLING_INTERVAL_S, tracking_uri=self._uri)
                monitor.start()
                self._monitor = monitor

    def stop(self) -> None:
        """Stops sampling and logs the last sample."""
        with self._lock:
            self._may_start = False
            monitor, self._monitor = self._monitor, None
        if monitor is not None:
            with suppress(Exception):  # of a server that does not answer
                monitor.finish()
