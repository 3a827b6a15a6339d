"""What a job costs with telemetry off, with metrics, and with metrics and traces.

Metrics are aggregated by OpenTelemetry's SDK and collected once; spans are batched and dropped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benches._harness import Bench, Row, Value, expect, size_option
from benches.enqueue import produce
from benches.full_life import work
from taquba import Queue, Telemetry

CONCURRENCY = 50


class Drop(SpanExporter):
    """The end of an exporter's way: nothing is sent."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Sdk:
    """What an application sets up."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(BatchSpanProcessor(Drop()))

    def close(self) -> None:
        if self._reader.get_metrics_data() is None:
            raise RuntimeError("nothing was measured")
        self.tracers.shutdown()
        self.meters.shutdown()


async def life(queue: Queue, jobs: int) -> dict[str, Value]:
    """Rates and CPU time of enqueueing jobs and of working on them."""
    cpu = time.process_time()
    enqueued = (await produce(queue, CONCURRENCY, jobs)).values
    handled = await work(queue, int(enqueued["jobs"] or 0), CONCURRENCY)
    cpu = time.process_time() - cpu
    return {
        "enqueued/s": enqueued["jobs/s"],
        "worked off/s": handled,
        "CPU us/job": cpu / jobs * 1e6,
    }


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs = options.jobs // CONCURRENCY * CONCURRENCY
    rows: list[Row] = []
    for case in ("off", "metrics", "metrics and traces"):
        sdk = Sdk()
        chosen = Telemetry(
            meter_provider=sdk.meters, tracer_provider=case != "metrics" and sdk.tracers
        )
        place = options.store
        async with Queue.open(
            place.new(), fsync=place.fsync, telemetry=False if case == "off" else chosen
        ) as queue:
            await life(queue, CONCURRENCY)  # warm up
            values = await life(queue, jobs)
            await expect(queue, pending=0, claimed=0, done=jobs + CONCURRENCY)
            if case != "off":
                sdk.close()
        base = rows[0].values["CPU us/job"] if rows else values["CPU us/job"]
        rows.append(
            Row(case, {**values, "CPU, off = 1": (values["CPU us/job"] or 0) / (base or 1)})
        )
    return rows


BENCH = Bench(
    "telemetry",
    "What do metrics, and metrics and traces, cost per job that is enqueued and worked off?",
    measure,
    size_option("--jobs", 20_000, "jobs per case, rounded down to a multiple of 50"),
    small=("--jobs", "500"),
)

if __name__ == "__main__":
    BENCH.main()
