"""What a server counts, in Prometheus's text format; every app has counters of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "ServeMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histograms: from a refusal to a large picture on a slow machine."""


class ServeMetrics:
    """The counters of one app."""

    def __init__(self, places: int, taken: Callable[[], int], held: Callable[[], int]) -> None:
        """Start at nought.

        Args:
            places: Pictures that are received, computed or waiting at most.
            taken: Gives how many are now.
            held: Gives the bytes of bodies that are held now.
        """
        self._registry = CollectorRegistry()
        self.answers = Counter(
            "flowsr_answers",
            "Answers to requests for a picture, by HTTP status.",
            ["status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "flowsr_answer_seconds",
            "From a request's head to the first byte of its answer, by HTTP status.",
            ["status"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.stages = Histogram(
            "flowsr_stage_seconds",
            "Time of a stage: receive, decode, enlarge (with its wait in the queue), encode.",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.pixels = Counter(
            "flowsr_output_pixels", "Pixels of the results.", registry=self._registry
        )
        self.abandoned = Counter(
            "flowsr_abandoned",
            "Requests whose client left before the answer.",
            registry=self._registry,
        )
        self._gauge("flowsr_places", "Pictures at once at most.", lambda: places)
        self._gauge("flowsr_places_taken", "Pictures received, computed or waiting.", taken)
        self._gauge("flowsr_body_bytes", "Bytes of bodies that are held.", held)

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer to a request for a picture."""
        self.answers.labels(str(status)).inc()
        self.seconds.labels(str(status)).observe(seconds)

    @contextmanager
    def stage(self, name: str, timings: dict[str, float]) -> Iterator[None]:
        """Time a stage that succeeds.

        Args:
            name: Of the stage.
            timings: Gets its seconds by its name.

        Yields:
            Nothing.
        """
        began = perf_counter()
        yield
        timings[name] = perf_counter() - began
        self.stages.labels(name).observe(timings[name])

    def render(self) -> bytes:
        """Return every counter as text."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, about: str, value: Callable[[], int]) -> None:
        Gauge(name, about, registry=self._registry).set_function(value)
