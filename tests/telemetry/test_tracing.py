"""Traces lead from an enqueue to its handler, and from there on, by links."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    QueueConfig,
    QueueReader,
    RetryAfter,
    SettlementEffects,
    StoreFenced,
    Telemetry,
    run_worker,
)
from taquba.testing import OpenQueue, drain
from tests.queue.support import NO_RETRY_WAIT, fresh_url, must_claim
from tests.telemetry.support import Spans

FOREIGN = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def queue(open_queue: OpenQueue, spans: Spans) -> Queue:
    return await open_queue(
        telemetry=Telemetry(meter_provider=False, tracer_provider=spans.provider),
        default_config=QueueConfig(max_attempts=2, **NO_RETRY_WAIT),
    )


def traceparent(span: ReadableSpan) -> str:
    found = span.get_span_context()
    assert found is not None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def span_id(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.span_id


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    return dict(span.attributes or {})


def nothing(job: JobRecord, lease: LeaseHandle) -> None:
    return None


async def test_an_enqueue_is_a_producer_span_whose_context_the_job_carries(
    queue: Queue, spans: Spans
) -> None:
    result = await queue.enqueue("q", b"", headers={"own": "value"})
    span = spans.one("enqueue q")
    assert span.kind is SpanKind.PRODUCER
    assert attributes(span) == {
        "messaging.system": "taquba",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "q",
        "messaging.message.id": result.id,
        "taquba.store": "memory://",
    }
    claim = await must_claim(queue)
    assert claim.headers == {"own": "value", "traceparent": traceparent(span)}


async def test_an_enqueue_is_a_child_of_what_its_caller_does(queue: Queue, spans: Spans) -> None:
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        await queue.enqueue("q", b"")
    parent = spans.one("enqueue q").parent
    assert parent == request.get_span_context()


async def test_a_batch_is_one_span(queue: Queue, spans: Spans) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    await queue.enqueue_batch([EnqueueRequest("q", b""), EnqueueRequest("other", b"")])
    same, mixed = spans.one("enqueue q"), spans.one("enqueue")
    assert attributes(same)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in attributes(same)
    assert "messaging.destination.name" not in attributes(mixed)
    claims = await queue.claim_batch("q", 4)
    assert [claim.headers["traceparent"] for claim in claims] == [
        *[traceparent(same)] * 3,
        traceparent(mixed),
    ]


async def test_a_handler_runs_in_a_consumer_span_linked_to_the_enqueue(
    queue: Queue, spans: Spans
) -> None:
    result = await queue.enqueue("q", b"")
    assert await drain(queue, "q", nothing) == 1
    span = spans.one("process q")
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is None
    assert linked(span) == [span_id(spans.one("enqueue q"))]
    assert attributes(span) == {
        "messaging.system": "taquba",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "q",
        "messaging.message.id": result.id,
        "taquba.job.attempt": 1,
        "taquba.store": "memory://",
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_the_worker_s_own_context_is_no_parent(queue: Queue, spans: Spans) -> None:
    await queue.enqueue("q", b"")
    done = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        done.set()

    with spans.provider.get_tracer("app").start_as_current_span("main"):
        await run_worker(queue, "q", handle, shutdown=done)
    assert spans.one("process q").parent is None


async def test_the_span_is_current_in_an_async_handler_and_in_one_in_a_thread(
    queue: Queue, spans: Spans
) -> None:
    seen: list[trace.SpanContext] = []

    async def with_nested_span(job: JobRecord, lease: LeaseHandle) -> None:
        with spans.provider.get_tracer("app").start_as_current_span("nested"):
            await asyncio.sleep(0)

    def in_thread(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(trace.get_current_span().get_span_context())

    await queue.enqueue_batch([EnqueueRequest(name, b"") for name in ("a", "b")])
    assert await drain(queue, "a", with_nested_span) == 1
    assert await drain(queue, "b", in_thread) == 1
    assert spans.one("nested").parent == spans.one("process a").get_span_context()
    assert seen == [spans.one("process b").get_span_context()]


async def test_the_span_is_current_under_a_timeout_and_with_interrupts(
    queue: Queue, spans: Spans
) -> None:
    await queue.enqueue("q", b"")
    done = asyncio.Event()
    seen: list[trace.SpanContext] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(trace.get_current_span().get_span_context())
        done.set()

    await run_worker(queue, "q", handle, timeout=5, on_cancel="interrupt", shutdown=done)
    assert seen == [spans.one("process q").get_span_context()]


async def test_follow_up_jobs_lead_back_to_the_handler_that_returned_them(
    queue: Queue, spans: Spans
) -> None:
    await queue.enqueue("first", b"")

    async def go_on(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        await queue.enqueue("third", b"")
        return SettlementEffects(enqueues=[EnqueueRequest("second", b"")])

    assert await drain(queue, "first", go_on) == 1
    handler = spans.one("process first")
    assert await drain(queue, "second", nothing) == 1
    assert linked(spans.one("process second")) == [span_id(handler)]
    assert await drain(queue, "third", nothing) == 1
    assert spans.one("enqueue third").parent == handler.get_span_context()
    assert linked(spans.one("process third")) == [span_id(spans.one("enqueue third"))]
    assert "enqueue second" not in spans.names()


async def test_handlers_side_by_side_keep_their_contexts_apart(queue: Queue, spans: Spans) -> None:
    for name in ("a", "b"):
        with spans.provider.get_tracer("app").start_as_current_span(name):
            await queue.enqueue("q", name.encode())
    both_run, done = asyncio.Barrier(2), asyncio.Event()
    left = 2

    async def go_on(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        nonlocal left
        await both_run.wait()
        left -= 1
        if not left:
            done.set()
        return SettlementEffects(enqueues=[EnqueueRequest("next", job.payload)])

    await run_worker(queue, "q", go_on, concurrency=2, shutdown=done)
    processed = {
        span.links[0].context.trace_id: traceparent(span) for span in spans.named("process q")
    }
    assert len(processed) == 2
    for claim in await queue.claim_batch("next", 2):
        origin = spans.one(claim.payload.decode()).get_span_context()
        assert origin is not None
        assert claim.headers["traceparent"] == processed[origin.trace_id]


async def test_each_attempt_is_a_span_linked_to_the_same_enqueue(
    queue: Queue, spans: Spans
) -> None:
    await queue.enqueue("q", b"")

    def fail(job: JobRecord, lease: LeaseHandle) -> None:
        if job.attempts == 1:
            raise RetryAfter(0, "not yet")
        raise ValueError("no luck")

    assert await drain(queue, "q", fail) == 2
    first, second = spans.named("process q")
    assert linked(first) == linked(second) == [span_id(spans.one("enqueue q"))]
    assert attributes(first)["taquba.job.attempt"] == 1
    assert attributes(second)["taquba.job.attempt"] == 2
    assert attributes(first)["error.type"] == "taquba.RetryAfter"
    assert attributes(second)["error.type"] == "ValueError"
    assert second.status.status_code is StatusCode.ERROR
    assert second.status.description == "no luck"
    assert [event.name for event in second.events] == ["exception"]


async def test_a_failed_enqueue_ends_its_span_with_the_error(
    open_queue: OpenQueue, spans: Spans
) -> None:
    url = fresh_url()
    queue = await open_queue(url, telemetry=Telemetry(tracer_provider=spans.provider))
    await open_queue(url, take_over=True)
    before = trace.get_current_span()
    with pytest.raises(StoreFenced):
        await queue.enqueue("q", b"")
    span = spans.one("enqueue q")
    assert attributes(span)["error.type"] == "taquba.StoreFenced"
    assert span.status.status_code is StatusCode.ERROR
    assert trace.get_current_span() is before


async def test_a_context_that_the_caller_brought_is_kept_and_linked(
    queue: Queue, spans: Spans
) -> None:
    await queue.enqueue("q", b"", headers=FOREIGN)
    claim = await must_claim(queue)
    assert claim.headers == FOREIGN
    assert linked(spans.one("enqueue q")) == [0xB7AD6B7169203331]


async def test_headers_of_the_caller_are_never_overwritten(queue: Queue, spans: Spans) -> None:
    own = {"baggage": "mine=1"}
    carried = context.attach(baggage.set_baggage("theirs", "2"))
    try:
        await queue.enqueue("q", b"", headers=own)
    finally:
        context.detach(carried)
    assert (await must_claim(queue)).headers == own


async def test_headers_that_a_handler_passes_on_do_not_carry_the_old_trace(
    queue: Queue, spans: Spans
) -> None:
    async def follow_up(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(enqueues=[EnqueueRequest("next", b"", headers=job.headers)])

    await queue.enqueue("q", b"", headers={"tenant": "acme"})
    assert await drain(queue, "q", follow_up) == 1
    claim = await must_claim(queue, "next")
    assert claim.headers == {
        "tenant": "acme",
        "traceparent": traceparent(spans.one("process q")),
    }


async def test_baggage_travels_to_the_handler(queue: Queue) -> None:
    seen: list[object] = []

    async def look(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(baggage.get_baggage("tenant"))

    carried = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        await queue.enqueue("q", b"")
    finally:
        context.detach(carried)
    assert await drain(queue, "q", look) == 1
    assert seen == ["acme"]


async def test_malformed_trace_headers_are_passed_over(open_queue: OpenQueue, spans: Spans) -> None:
    url = fresh_url()
    plain = await open_queue(url, telemetry=False)
    await plain.enqueue("q", b"", headers={"traceparent": "not a trace", "tracestate": "=="})
    await plain.close()
    queue = await open_queue(url, telemetry=Telemetry(tracer_provider=spans.provider))
    assert await drain(queue, "q", nothing) == 1
    assert linked(spans.one("process q")) == []


async def test_jobs_are_untouched_while_tracing_is_off(queue: Queue, open_queue: OpenQueue) -> None:
    untraced = await open_queue(telemetry=False)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, False))):
        await untraced.enqueue("q", b"")
        await untraced.enqueue("q", b"", headers={"own": "value"})
    assert [dict(claim.headers) for claim in await untraced.claim_batch("q", 2)] == [
        {},
        {"own": "value"},
    ]


async def test_metrics_alone_trace_nothing(open_queue: OpenQueue, spans: Spans) -> None:
    from opentelemetry.sdk.metrics import MeterProvider

    queue = await open_queue(telemetry=MeterProvider(shutdown_on_exit=False))
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await queue.enqueue("q", b"")
    assert (await must_claim(queue)).headers == {}
    assert spans.names() == ["request"]


async def test_a_job_that_is_not_sampled_says_so(open_queue: OpenQueue) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    queue = await open_queue(telemetry=Telemetry(tracer_provider=provider))
    await queue.enqueue("q", b"")
    flags = (await must_claim(queue)).headers["traceparent"].rpartition("-")[2]
    assert int(flags, 16) & 1 == 0


async def test_a_handler_in_an_executor_finds_its_context_in_the_headers(
    queue: Queue, spans: Spans
) -> None:
    await queue.enqueue("q", b"")
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.headers["traceparent"])
        loop.call_soon_threadsafe(done.set)

    with ThreadPoolExecutor(1) as executor:
        await run_worker(queue, "q", handle, executor=executor, shutdown=done)
    assert seen == [traceparent(spans.one("enqueue q"))]
    assert len(spans.named("process q")) == 1


async def test_a_reader_shows_the_headers_as_they_are_stored(
    open_queue: OpenQueue, spans: Spans
) -> None:
    url = fresh_url()
    queue = await open_queue(url, telemetry=Telemetry(tracer_provider=spans.provider))
    result = await queue.enqueue("q", b"")
    async with QueueReader.open(url) as reader:
        job = await reader.get_job(result.id)
    assert job is not None
    assert job.headers == {"traceparent": traceparent(spans.one("enqueue q"))}


class BrokenProcessor(SpanProcessor):
    """Fails at the start of a span, or at its end."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: object, parent_context: Context | None = None) -> None:
        if self._at == "start":
            raise RuntimeError("cannot start")

    def on_end(self, span: object) -> None:
        if self._at == "end":
            raise RuntimeError("cannot end")


@pytest.mark.parametrize("at", ["start", "end"])
async def test_a_failing_span_processor_breaks_no_operation(
    open_queue: OpenQueue, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BrokenProcessor(at))
    queue = await open_queue(telemetry=Telemetry(tracer_provider=provider))
    with caplog.at_level(logging.DEBUG, logger="taquba._telemetry"):
        await queue.enqueue("q", b"")
        assert await drain(queue, "q", nothing) == 1
    assert (await queue.stats("q")).done == 1
    assert any("telemetry failed" in record.message for record in caplog.records)
