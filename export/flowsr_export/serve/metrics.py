"""Metrics of one app in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowsr_runtime.upscaling.shared_features import FeatureCache

__all__ = ["CONTENT_TYPE_LATEST", "ServeMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histograms, from an error to a large image on a slow machine."""


class ServeMetrics:
    """Metrics of one app, in a registry of its own."""

    def __init__(
        self,
        places: int,
        used: Callable[[], int],
        held: Callable[[], int],
        features: FeatureCache,
    ) -> None:
        """Create the counters.

        Args:
            places: Maximum number of images received, processed or waiting.
            used: Returns their current number.
            held: Returns the bytes of the bodies in memory.
            features: Features that are kept for further scales of an image.
        """
        self._registry = registry = CollectorRegistry()
        registry.register(_Levels(places, used, held))
        registry.register(_Features(features))
        self.answers = Counter(
            "flowsr_answers",
            "Responses to upscale requests, by HTTP status.",
            ["status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "flowsr_answer_seconds",
            "Time from a request's head to its response, by HTTP status.",
            ["status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "flowsr_stage_seconds",
            "Time of a stage: receive, decode, enlarge (queueing included), encode.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.pixels = Counter(
            "flowsr_output_pixels", "Pixels of the results.", registry=registry
        )
        self.abandoned = Counter(
            "flowsr_abandoned",
            "Requests whose client left before the response.",
            registry=registry,
        )

    def answered(self, status: int, seconds: float) -> None:
        """Count a response to an upscale request."""
        self.answers.labels(str(status)).inc()
        self.seconds.labels(str(status)).observe(seconds)

    @contextmanager
    def stage(self, name: str, timings: dict[str, float]) -> Iterator[None]:
        """Measure the time of a stage that succeeds.

        Args:
            name: Name of the stage.
            timings: Receives the seconds under that name.

        Yields:
            Nothing.
        """
        began = perf_counter()
        yield
        timings[name] = perf_counter() - began
        self.stages.labels(name).observe(timings[name])

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)


class _Levels(Collector):
    """Current numbers of images and of bytes, read when the metrics are rendered."""

    def __init__(self, places: int, used: Callable[[], int], held: Callable[[], int]) -> None:
        self._places, self._used, self._held = places, used, held

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, about, value in (
            ("flowsr_places", "Maximum number of images at once.", self._places),
            ("flowsr_places_taken", "Images received, processed or waiting.", self._used()),
            ("flowsr_body_bytes", "Bytes of request bodies in memory.", self._held()),
        ):
            yield GaugeMetricFamily(name, about, value=value)


class _Features(Collector):
    """Uses of the kept features, read when the metrics are rendered."""

    def __init__(self, features: FeatureCache) -> None:
        self._features = features

    def collect(self) -> Iterator[Metric]:
        features = self._features
        yield CounterMetricFamily(
            "flowsr_feature_hits",
            "Images whose features were kept from another scale.",
            value=features.hits,
        )
        yield CounterMetricFamily(
            "flowsr_feature_misses",
            "Images whose features were computed and kept.",
            value=features.misses,
        )
        yield GaugeMetricFamily(
            "flowsr_feature_bytes", "Bytes of kept features.", value=features.held
        )
