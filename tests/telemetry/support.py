"""Providers that keep what they get in memory, and ways to look at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taquba import Telemetry

IN_ALL = {"messaging.system": "taquba", "taquba.store": "memory://"}
IN_Q = {**IN_ALL, "messaging.destination.name": "q"}


class Meters:
    """A meter provider of its own."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(
            [self._reader], resource=Resource.get_empty(), shutdown_on_exit=False
        )

    def collect(self) -> dict[str, Metric]:
        """Every metric that has a data point, by name."""
        data = self._reader.get_metrics_data()
        found: dict[str, Metric] = {}
        if data is not None:
            for resource in data.resource_metrics:
                for scope in resource.scope_metrics:
                    assert scope.scope.name == "taquba"
                    found.update({metric.name: metric for metric in scope.metrics})
        return found

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes and data points of a metric."""
        metric = self.collect().get(name)
        if metric is None:
            return []
        return [(dict(point.attributes or {}), point) for point in metric.data.data_points]

    def values(self, name: str, *by: str) -> dict[Any, float]:
        """Values of a counter or gauge, or sums of a histogram, by one or more attributes."""
        return {
            key(attributes, by): point.value if hasattr(point, "value") else point.sum
            for attributes, point in self.points(name)
        }

    def counts(self, name: str, *by: str) -> dict[Any, int]:
        """How many measurements a histogram holds, by one or more attributes."""
        return {key(attributes, by): point.count for attributes, point in self.points(name)}

    def value(self, name: str) -> float:
        """The only value of a metric."""
        [(_, point)] = self.points(name)
        return point.value if hasattr(point, "value") else point.sum


def key(attributes: Mapping[str, Any], by: tuple[str, ...]) -> Any:
    found = tuple(attributes.get(name) for name in by)
    return found[0] if len(found) == 1 else found


class Spans:
    """A tracer provider of its own."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        """Spans of a name that have ended, in that order."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def names(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]


def both(meters: Meters, spans: Spans) -> Telemetry:
    return Telemetry(meter_provider=meters.provider, tracer_provider=spans.provider)
