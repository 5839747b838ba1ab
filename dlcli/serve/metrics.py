"""Counters of a server in Prometheus' text form; with several workers, the sums of all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Set for workers by their supervisor, before prometheus_client is imported.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What is counted of requests, and of the calls of models."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dlcli_requests", "Requests", ("endpoint", "method", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "dlcli_request_seconds",
            "Time of a request, with that of its body",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        labels = ("model", "version")
        self._samples = Histogram(
            "dlcli_batch_samples",
            "Samples in one call of a model",
            labels,
            buckets=_SAMPLES,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "dlcli_batch_seconds",
            "Time of one call of a model",
            labels,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._reloads = Counter(
            "dlcli_reloads",
            "Files that changed, by what followed",
            ("model", "result"),
            registry=self._registry,
        )

    def count(self, endpoint: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE") else "other"
        self._requests.labels(endpoint, known, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def batch(self, model: str, version: str, samples: int, requests: int, seconds: float) -> None:
        """Count a call of a model."""
        self._samples.labels(model, version).observe(samples)
        self._batch_seconds.labels(model, version).observe(seconds)

    def reload(self, model: str, result: str) -> None:
        """Count a file that changed."""
        self._reloads.labels(model, result).inc()

    def text(self) -> bytes:
        """The reply to ``/metrics``."""
        from prometheus_client import generate_latest

        return generate_latest(self._all())

    def _all(self) -> CollectorRegistry:
        if SHARED_FOLDER not in os.environ:
            return self._registry
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
