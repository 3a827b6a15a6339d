"""Metrics and traces through OpenTelemetry. Only `settings` may be imported without it."""
