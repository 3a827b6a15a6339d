"""One trace from an enqueue in one process over the owner to the handler in another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from opentelemetry import trace

from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    Service,
    SettlementEffects,
    Telemetry,
    run_worker,
)
from tests.telemetry.support import Meters, Spans
from tests.telemetry.test_tracing import linked, span_id, traceparent

SECONDS = 20


async def test_a_trace_leads_from_process_to_process(short_path: Path) -> None:
    asks, owns, works = Spans(), Spans(), Spans()
    meters = Meters()
    place = short_path / "s"
    stop = asyncio.Event()
    seen: list[JobRecord] = []
    current: list[str] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        seen.append(job)
        context = trace.get_current_span().get_span_context()
        current.append(f"{context.span_id:016x}")
        if len(seen) == 2:
            stop.set()
            return None
        return SettlementEffects(enqueues=[EnqueueRequest("q", b"next")])

    def telemetry(spans: Spans, **other: Any) -> Telemetry:
        return Telemetry(tracer_provider=spans.provider, **{"meter_provider": False, **other})

    async with (
        Queue.open(
            place, inbox=True, producer_socket=True, fsync=False, telemetry=telemetry(owns)
        ) as owner,
        Service(place, role="producer", fsync=False, telemetry=telemetry(asks)) as producer,
        Service(
            place,
            role="worker",
            fsync=False,
            telemetry=telemetry(works, meter_provider=meters.provider),
        ) as worker,
    ):
        first = await producer.enqueue("q", b"", headers={"own": "value"})
        async with asyncio.timeout(SECONDS):
            await run_worker(worker, "q", handler, shutdown=stop)
        assert (await owner.stats("q")).done == 2
    sent = asks.one("enqueue q")
    assert seen[0].id == first.id
    assert seen[0].headers == {"own": "value", "traceparent": traceparent(sent)}
    handled, followed = works.named("process q")
    assert linked(handled) == [span_id(sent)]
    assert linked(followed) == [span_id(handled)]
    assert current == [f"{span_id(handled):016x}", f"{span_id(followed):016x}"]
    assert meters.counts("messaging.process.duration", "messaging.destination.name") == {"q": 2}
