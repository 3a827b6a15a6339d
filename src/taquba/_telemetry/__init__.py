"""Metrics and traces through OpenTelemetry. Only `settings` may be imported without it.

The modules, top to bottom; each uses only those below it:

    choosing         whether a queue reports to OpenTelemetry, which is imported only if it does
    instrumentation  what an open store is observed with: metrics, traces, or both
    metrics          metrics: told of each commit, flush and answer, never of single jobs
    tracing          traces: a span around each enqueue and each handler
    gauges           what is read from open stores when an exporter asks
    guard            telemetry must not break what it observes
    names            names of what is emitted: OpenTelemetry's messaging conventions
    settings         which OpenTelemetry providers a queue reports to
"""
