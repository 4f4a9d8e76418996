"""Figures of the service in Prometheus' format, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """Counts, durations and sizes since the start; labels have few values, whatever is asked."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.requests = Counter("cpt_serve_requests", "Answers by route and status.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "cpt_serve_request_seconds", "Seconds to an answer, by route.", ["route"], buckets=SECONDS, registry=registry
        )
        self.refused = Counter("cpt_serve_refused", "Requests without an answer, by reason.", ["reason"], registry=registry)
        self.batches = Histogram("cpt_serve_batch_queries", "Queries that one pass embedded.", buckets=SIZES, registry=registry)
        self.texts = Counter("cpt_serve_embedded_texts", "Texts of requests for embeddings.", registry=registry)
        self.in_flight = Gauge("cpt_serve_in_flight", "Requests that are worked on or wait.", registry=registry)
        self.waiting = Gauge("cpt_serve_waiting_queries", "Queries that wait for a thread.", registry=registry)
        self.swaps = Counter("cpt_serve_swaps", "Times that another pair came into use.", registry=registry)
        self.ready = Gauge("cpt_serve_ready", "1 while requests are taken.", registry=registry)
        self.pair = Gauge(
            "cpt_serve_pair_info",
            "The model and index that answer.",
            ["name", "model_digest", "index_digest"],
            registry=registry,
        )
        self.rows = Gauge("cpt_serve_index_rows", "Functions and passages of the index that answers.", registry=registry)

    def shows(self, name: str, model_digest: str, index_digest: str, rows: int) -> None:
        """The pair that answers from now on."""
        self.pair.clear()
        self.pair.labels(name, model_digest, index_digest).set(1)
        self.rows.set(rows)

    def queue(self, length: Callable[[], int]) -> None:
        """What tells how many queries wait."""
        self.waiting.set_function(length)

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
