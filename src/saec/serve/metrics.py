"""Metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from saec.serve.protocol import RefusedError, Status

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counters of one server; ``name`` is the model's."""

    def __init__(self, name: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._name = name
        self._requests = Counter(
            "saec_requests",
            "Inference requests that have ended.",
            ["model", "protocol", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "saec_request_seconds",
            "From a request's head to its answer.",
            ["model", "protocol"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "saec_requests_in_flight",
            "Inference requests that have begun, but not ended.",
            ["model", "protocol"],
            registry=registry,
        )
        self._bytes = Gauge(
            "saec_model_bytes", "Size of the model's files.", ["model"], registry=registry
        )
        self._version = Gauge(
            "saec_model_version", "The version in use.", ["model"], registry=registry
        )
        self._failures = Counter(
            "saec_reload_failures",
            "New files that could not be served.",
            ["model"],
            registry=registry,
        )
        self._failures.labels(name)  # shown as 0 before the first one

    @contextmanager
    def request(self, protocol: str) -> Iterator[None]:
        """Count and time one inference request; its status follows from the exception raised, if
        any."""
        start = time.perf_counter()
        in_flight = self._in_flight.labels(self._name, protocol)
        in_flight.inc()
        status = Status.GONE  # the status if nothing else sets it: cancelled
        try:
            yield
            status = Status.OK
        except RefusedError as refusal:
            status = refusal.status
            raise
        except Exception:
            status = Status.FAILED
            raise
        finally:
            in_flight.dec()
            self._requests.labels(self._name, protocol, status.name.lower()).inc()
            self._seconds.labels(self._name, protocol).observe(time.perf_counter() - start)

    def model(self, version: int, nbytes: int) -> None:
        """Set the version in use."""
        self._version.labels(self._name).set(version)
        self._bytes.labels(self._name).set(nbytes)

    def reload_failed(self) -> None:
        """Count a new file that could not be served."""
        self._failures.labels(self._name).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
