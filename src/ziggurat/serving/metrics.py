"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GROUPS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one door; each has a registry of its own.

    Attributes:
        content_type: Of `text`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ziggurat_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ziggurat_request_seconds",
            "From the first byte of a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.compute = Histogram(
            "ziggurat_compute_seconds",
            "Computation of the group that a request was in.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.group = Histogram(
            "ziggurat_group_images",
            "Images that were computed together.",
            ["model"],
            buckets=GROUPS,
            registry=registry,
        )
        self.waiting = Gauge(
            "ziggurat_requests_under_way", "Requests that wait or are computed.", ["model"], registry=registry
        )
        self.received = Counter("ziggurat_received_bytes", "Bytes of bodies.", registry=registry)
        self.retries = Counter(
            "ziggurat_retries",
            "Requests that were sent to another replica, as theirs was lost.",
            ["model"],
            registry=registry,
        )

    def text(self) -> bytes:
        """Return all of them."""
        return generate_latest(self._registry)
