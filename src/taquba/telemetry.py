"""Telemetry: which OpenTelemetry providers a queue reports to.

Needs the extra ``taquba[otel]``, and an OpenTelemetry SDK that the application sets up.
"""

from taquba._telemetry.settings import Telemetry

__all__ = ["Telemetry"]
