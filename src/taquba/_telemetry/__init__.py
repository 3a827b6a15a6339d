"""Metrics and traces through OpenTelemetry. Only `settings` may be imported without it.

The modules, top to bottom; each uses only those below it:

    choosing         whether a queue reports to OpenTelemetry, which is imported only if it does
    instrumentation  the hooks of an open store: metrics, traces, or both
    metrics          metrics: one call for each commit, flush and answer, never for single jobs
    tracing          traces: a span around each enqueue and each handler
    gauges           values that are read from open stores when an exporter asks
    guard            telemetry must not break what it observes
    names            names of metrics and spans: OpenTelemetry's messaging conventions
    settings         which OpenTelemetry providers a queue reports to
"""
