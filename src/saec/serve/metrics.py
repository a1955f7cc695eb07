"""Metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from saec.format.cold_tables import ReadCounts
from saec.serve.batch_metrics import BatchMetrics
from saec.serve.protocol import RefusedError, Status

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 10)

_READS = {
    "hits": ("saec_page_hits", "Uses of pages or rows of tables that were in memory."),
    "misses": ("saec_page_misses", "Uses of pages or rows of tables that were not."),
    "reads": ("saec_reads", "Reads of a page or of several side by side."),
    "pages_read": ("saec_pages_read", "Pages of tables that were read."),
    "bytes_read": ("saec_bytes_read", "Their bytes."),
}
_MEMORY = {
    "memory_bytes": ("saec_tables_memory_bytes", "Memory that tables take."),
    "most_memory_bytes": ("saec_tables_memory_limit_bytes", "Memory that tables may take."),
}


class _Reads:
    """What the version in use has read from its file; nothing where it is mapped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.counts: Callable[[], ReadCounts | None] = lambda: None

    def collect(self) -> Iterator[Metric]:
        """For Prometheus's registry."""
        counts = self.counts()
        if counts is None:
            return
        for family, described in ((CounterMetricFamily, _READS), (GaugeMetricFamily, _MEMORY)):
            for attribute, (name, text) in described.items():
                metric = family(name, text, labels=["model"])
                metric.add_metric([self._name], getattr(counts, attribute))
                yield metric


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
        self._reads = _Reads(name)
        registry.register(self._reads)

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

    def batches(self, queue_length: Callable[[], int]) -> BatchMetrics:
        """Metrics of requests that are computed together; to be called once."""
        return BatchMetrics(self._registry, self._name, queue_length)

    def model(
        self, version: int, nbytes: int, read_counts: Callable[[], ReadCounts | None]
    ) -> None:
        """Set the version in use; what it reads is counted from 0 on."""
        self._reads.counts = read_counts
        self._version.labels(self._name).set(version)
        self._bytes.labels(self._name).set(nbytes)

    def reload_failed(self) -> None:
        """Count a new file that could not be served."""
        self._failures.labels(self._name).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
