"""Metrics of requests that are computed together."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, Histogram

__all__ = ["BatchMetrics"]

_REQUESTS = tuple(2.0**power for power in range(11))
_ROWS = tuple(4.0**power for power in range(11))
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 10)


class BatchMetrics:
    """Length of the queue, sizes of batches and waits, of the model ``name``.

    ``length`` gives the number of requests that wait.
    """

    def __init__(self, registry: CollectorRegistry, name: str, length: Callable[[], int]) -> None:
        queue = Gauge(
            "saec_batch_queue_length",
            "Requests that wait to be computed with others.",
            ["model"],
            registry=registry,
        )
        queue.labels(name).set_function(length)

        def histogram(metric: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(metric, text, ["model"], buckets=buckets, registry=registry)
            return family.labels(name)

        self._requests = histogram("saec_batch_requests", "Requests of a batch.", _REQUESTS)
        self._rows = histogram("saec_batch_rows", "Rows of a batch: ids or examples.", _ROWS)
        self._waits = histogram(
            "saec_batch_wait_seconds", "From a request's decoding to its batch.", _SECONDS
        )

    def batch(self, requests: int, rows: int) -> None:
        """Count a batch."""
        self._requests.observe(requests)
        self._rows.observe(rows)

    def waited(self, seconds: float) -> None:
        """Count the wait of a request."""
        self._waits.observe(seconds)
