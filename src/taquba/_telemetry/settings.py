"""Which OpenTelemetry providers a queue reports to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taquba._model.errors import InvalidArgumentType

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where a queue's metrics and traces go.

    For each of the two, None means the global provider, if the application has configured one
    before the queue is opened. True means the global provider, even if it is configured later.
    False means that the queue emits none.

    Attributes:
        meter_provider: An OpenTelemetry `MeterProvider` for the metrics, or None, True or False.
        tracer_provider: A `TracerProvider` for the spans, or None, True or False.
    """

    meter_provider: MeterProvider | bool | None = None
    tracer_provider: TracerProvider | bool | None = None

    def __post_init__(self) -> None:
        _check(self.meter_provider, "get_meter", "meter_provider", "a MeterProvider")
        _check(self.tracer_provider, "get_tracer", "tracer_provider", "a TracerProvider")

    @property
    def explicit(self) -> bool:
        """Whether the caller asked for any telemetry, whatever is configured."""
        return any(choice not in (None, False) for choice in self._choices)

    @property
    def off(self) -> bool:
        """Whether these choices are known to emit nothing, without importing OpenTelemetry."""
        # A module that nobody has imported yet cannot be configured.
        unused = "opentelemetry.metrics" not in sys.modules and (
            "opentelemetry.trace" not in sys.modules
        )
        return all(choice is False or (choice is None and unused) for choice in self._choices)

    @property
    def _choices(self) -> tuple[object, object]:
        return self.meter_provider, self.tracer_provider


def as_telemetry(value: Telemetry | MeterProvider | bool | None) -> Telemetry:
    """What a caller passed as `telemetry`, spelled out."""
    if isinstance(value, Telemetry):
        return value
    if value is None or isinstance(value, bool):
        return Telemetry(meter_provider=value, tracer_provider=value)
    _check(value, "get_meter", "telemetry", "a MeterProvider, a Telemetry")
    return Telemetry(meter_provider=value)


def _check(value: object, method: str, name: str, kind: str) -> None:
    if (
        value is not None
        and not isinstance(value, bool)
        and not callable(getattr(value, method, None))
    ):
        raise InvalidArgumentType(f"{name} must be {kind}, None, True or False, not {value!r}")
