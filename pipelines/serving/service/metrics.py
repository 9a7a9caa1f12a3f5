"""Prometheus metrics of a service. Each service has its own registry, so two services in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters, gauges and histograms. Unknown paths count as `other`, so clients cannot create time series."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        prefix, own = "clozeline", self.registry
        self.requests = Counter("requests", "Requests answered.", ("path", "code"), prefix, registry=own)
        self.request_seconds = Histogram(
            "request_seconds",
            "Seconds from a /predict request to its response.",
            (),
            prefix,
            registry=own,
            buckets=SECONDS,
        )
        self.texts = Counter("texts", "Texts with a prediction.", (), prefix, registry=own)
        self.failures = Counter("failed_texts", "Texts on which the model failed.", (), prefix, registry=own)
        self.batch_texts = Histogram("batch_texts", "Texts per batch.", (), prefix, registry=own, buckets=SIZES)
        self.batch_seconds = Histogram(
            "batch_seconds", "Seconds that the model takes per batch.", (), prefix, registry=own, buckets=SECONDS
        )
        self.queue_texts = Gauge("queue_texts", "Texts that wait for the model.", (), prefix, registry=own)
        self.ready = Gauge("ready", "1 when the model is loaded.", (), prefix, registry=own)

    def text(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
