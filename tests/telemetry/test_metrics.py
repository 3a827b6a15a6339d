"""What is counted and measured, and under which names and attributes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes

from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    Queue,
    QueueConfig,
    SettlementEffects,
    Snooze,
    StoreFenced,
    Telemetry,
    run_worker,
)
from taquba._telemetry import names
from taquba.testing import MockClock, OpenQueue, drain
from tests.queue.support import NO_RETRY_WAIT, fresh_url, must_claim
from tests.telemetry.support import IN_ALL, IN_Q, Meters

QUEUE = "messaging.destination.name"
OPERATION = "messaging.operation.name"
STATE = "taquba.job.state"
OUTCOME = "taquba.job.outcome"
REQUEST = ("taquba.store.component", "taquba.store.request")
DURATION = "messaging.client.operation.duration"


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
async def queue(open_queue: OpenQueue, meters: Meters) -> Queue:
    return await open_queue(
        telemetry=Telemetry(meter_provider=meters.provider, tracer_provider=False),
        default_config=QueueConfig(max_attempts=2, lease_duration=10, **NO_RETRY_WAIT),
    )


async def fail(job: JobRecord, lease: LeaseHandle) -> None:
    raise ValueError("no luck")


async def test_names_are_those_of_the_messaging_conventions(queue: Queue, meters: Meters) -> None:
    await queue.enqueue("q", b"")
    assert await drain(queue, "q", lambda job, lease: None) == 1
    conventional = {name for name in meters.collect() if name.startswith("messaging.")}
    assert conventional == {
        messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES,
        messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES,
        messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION,
        messaging_metrics.MESSAGING_PROCESS_DURATION,
    }
    assert names.SYSTEM == messaging_attributes.MESSAGING_SYSTEM
    assert names.QUEUE == messaging_attributes.MESSAGING_DESTINATION_NAME
    assert names.OPERATION_NAME == messaging_attributes.MESSAGING_OPERATION_NAME
    assert names.OPERATION_TYPE == messaging_attributes.MESSAGING_OPERATION_TYPE
    assert names.JOB_ID == messaging_attributes.MESSAGING_MESSAGE_ID
    assert names.BATCH_SIZE == messaging_attributes.MESSAGING_BATCH_MESSAGE_COUNT
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert set(messaging_attributes.MessagingOperationTypeValues) >= {
        messaging_attributes.MessagingOperationTypeValues(operation.type)
        for operation in (names.ENQUEUE, names.CLAIM, names.ACK, names.PROCESS)
    }


async def test_enqueued_jobs_are_counted_per_queue(queue: Queue, meters: Meters) -> None:
    await queue.enqueue("q", b"")
    await queue.enqueue("q", b"", delay=60)
    await queue.enqueue_batch([EnqueueRequest("q", b""), EnqueueRequest("other", b"")])
    assert meters.points("messaging.client.sent.messages")[0][0] == {
        **IN_Q,
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
    }
    assert meters.values("messaging.client.sent.messages", QUEUE) == {"q": 3, "other": 1}


async def test_a_held_dedup_key_counts_nothing(queue: Queue, meters: Meters) -> None:
    await queue.enqueue("q", b"", dedup_key="k")
    assert not (await queue.enqueue("q", b"", dedup_key="k")).new
    assert meters.value("messaging.client.sent.messages") == 1
    assert meters.counts(DURATION, OPERATION) == {"enqueue": 1}


async def test_claims_and_settlements_are_counted(queue: Queue, meters: Meters) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5)
    first, second, third = await queue.claim_batch("q", 3)
    await queue.ack(first)
    await queue.nack(second, "no luck")
    await queue.dead_letter(third, "hopeless")
    assert (await queue.nack(await must_claim(queue), "no luck")).dead_lettered

    assert meters.points("messaging.client.consumed.messages")[0][0] == {
        **IN_Q,
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
    }
    assert meters.value("messaging.client.consumed.messages") == 4
    assert meters.points("taquba.jobs.completed")[0][0] == IN_Q
    assert meters.value("taquba.jobs.completed") == 1
    assert meters.value("taquba.jobs.retried") == 1
    assert meters.value("taquba.jobs.dead_lettered") == 2


async def test_effects_are_counted_as_enqueues(queue: Queue, meters: Meters) -> None:
    await queue.enqueue("q", b"")
    effects = SettlementEffects(enqueues=[EnqueueRequest("next", b"")] * 2)
    await queue.ack(await must_claim(queue), effects)
    assert meters.values("messaging.client.sent.messages", QUEUE) == {"q": 1, "next": 2}
    # They are part of one settlement.
    assert meters.counts(DURATION, OPERATION, QUEUE) == {
        ("enqueue", "q"): 1,
        ("claim", "q"): 1,
        ("ack", "q"): 1,
    }


async def test_the_reaper_is_counted_and_so_are_its_dead_letters(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"")
    await must_claim(queue)
    await mock_clock.advance(11)
    assert meters.value("taquba.jobs.reaped") == 1
    assert meters.points("taquba.jobs.dead_lettered") == []
    await must_claim(queue)
    await mock_clock.advance(11)
    assert meters.value("taquba.jobs.reaped") == 2
    assert meters.value("taquba.jobs.dead_lettered") == 1
    assert meters.points("taquba.jobs.retried") == []
    # Nobody asked for them, so they are not operations.
    assert meters.counts(DURATION, OPERATION) == {"enqueue": 1, "claim": 2}


async def test_a_snoozed_job_is_not_a_retried_one(queue: Queue, meters: Meters) -> None:
    def not_now(job: JobRecord, lease: LeaseHandle) -> None:
        raise Snooze(60)

    await queue.enqueue("q", b"")
    assert await drain(queue, "q", not_now) == 1
    assert meters.value("taquba.jobs.snoozed") == 1
    assert meters.points("taquba.jobs.retried") == []
    assert meters.counts(DURATION, OPERATION)["snooze"] == 1


async def test_cancelled_and_requeued_jobs_are_counted(queue: Queue, meters: Meters) -> None:
    cancelled = await queue.enqueue("q", b"")
    await queue.cancel(cancelled.id)
    dead = await queue.enqueue("q", b"")
    await queue.dead_letter(await must_claim(queue), "hopeless")
    await queue.requeue_dead(dead.id)
    assert meters.value("taquba.jobs.cancelled") == 1
    assert meters.value("taquba.jobs.requeued") == 1
    assert meters.value("messaging.client.sent.messages") == 2


async def test_a_restart_counts_what_it_takes_back(open_queue: OpenQueue, meters: Meters) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 2)
    await queue.claim_batch("q", 2)
    await queue.close()
    await open_queue(url, telemetry=meters.provider)
    assert meters.value("taquba.jobs.interrupted") == 2


async def test_lease_renewals_are_counted(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    await queue.renew_lease(claim, 20)
    assert meters.points("taquba.lease.renewals")[0][0] == IN_Q
    assert meters.value("taquba.lease.renewals") == 1
    await queue.nack(claim, "again")

    running, stop = asyncio.Event(), asyncio.Event()

    async def wait(job: JobRecord, lease: LeaseHandle) -> None:
        lease.ensure_at_least(15)
        running.set()
        await stop.wait()

    shutdown = asyncio.Event()
    worker = asyncio.create_task(run_worker(queue, "q", wait, shutdown=shutdown))
    await running.wait()
    assert meters.value("taquba.lease.renewals") == 2
    # A lease of 10 s is renewed at a third of it, once that makes it last longer.
    await mock_clock.advance(7)
    assert meters.value("taquba.lease.renewals") == 3
    stop.set()
    shutdown.set()
    await worker


async def test_each_operation_is_measured_once_however_many_jobs_it_has(
    queue: Queue, meters: Meters
) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 10)
    claims = await queue.claim_batch("q", 10)
    await asyncio.gather(*(queue.ack(claim) for claim in claims[:7]))
    await queue.nack(claims[7], "no luck")
    await queue.dead_letter(claims[8], "hopeless")
    assert meters.counts(DURATION, OPERATION, "messaging.operation.type") == {
        ("enqueue", "send"): 1,
        ("claim", "receive"): 1,
        ("ack", "settle"): 7,
        ("nack", "settle"): 1,
        ("dead_letter", "settle"): 1,
    }
    assert all(0 < seconds < 60 for seconds in meters.values(DURATION, OPERATION).values())
    assert meters.collect()[DURATION].unit == "s"


async def test_a_batch_over_several_queues_names_none(queue: Queue, meters: Meters) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b""), EnqueueRequest("other", b"")])
    assert meters.counts(DURATION, QUEUE) == {None: 1}


async def test_a_failed_operation_names_its_error(open_queue: OpenQueue, meters: Meters) -> None:
    url = fresh_url()
    queue = await open_queue(url, telemetry=meters.provider)
    await queue.enqueue("q", b"")
    await open_queue(url, take_over=True)
    with pytest.raises(StoreFenced):
        await queue.enqueue("q", b"")
    assert meters.counts(DURATION, OPERATION, "error.type") == {
        ("enqueue", None): 1,
        ("enqueue", "taquba.StoreFenced"): 1,
    }


async def test_handlers_are_measured_with_the_error_they_end_with(
    queue: Queue, meters: Meters
) -> None:
    def give_up(job: JobRecord, lease: LeaseHandle) -> None:
        raise PermanentFailure("hopeless")

    await queue.enqueue_batch([EnqueueRequest(name, b"") for name in ("q", "bad", "worse")])
    assert await drain(queue, "q", lambda job, lease: None) == 1
    assert await drain(queue, "bad", fail) == 2
    assert await drain(queue, "worse", give_up) == 1
    assert meters.counts("messaging.process.duration", QUEUE, "error.type") == {
        ("q", None): 1,
        ("bad", "ValueError"): 2,
        ("worse", "taquba.PermanentFailure"): 1,
    }


async def test_end_to_end_time_runs_from_enqueue_to_the_end(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 2)
    await mock_clock.advance(5)
    await queue.ack(await must_claim(queue))
    await mock_clock.advance(2)
    await queue.nack(await must_claim(queue), "no luck")
    await mock_clock.advance(3)
    await queue.nack(await must_claim(queue), "no luck")
    assert meters.values("taquba.job.duration", QUEUE, OUTCOME) == {
        ("q", "completed"): 5,
        ("q", "dead_lettered"): 10,
    }


async def test_a_commit_is_counted_with_its_rows_and_bytes(queue: Queue, meters: Meters) -> None:
    before = meters.counts("taquba.commit.rows")
    await queue.kv_put("key", b"v" * 1000)
    # One row: its key has two bytes before the caller's.
    assert meters.value("taquba.commits") - before.get((), 0) == 1
    [(attributes, rows)] = meters.points("taquba.commit.rows")
    assert attributes == IN_ALL
    assert rows.min == 1
    [(_, size)] = meters.points("taquba.commit.size")
    assert size.max == 1000 + len("key") + 2
    assert meters.collect()["taquba.commit.size"].unit == "By"


async def test_jobs_that_share_a_commit_count_it_once(queue: Queue, meters: Meters) -> None:
    commits, rows = meters.value("taquba.commits"), meters.value("taquba.commit.rows")
    await asyncio.gather(*(queue.enqueue("q", b"") for _ in range(20)))
    assert meters.value("taquba.commits") - commits == 1
    # A record and an index entry each, and the counters of the queue.
    assert meters.value("taquba.commit.rows") - rows == 2 * 20 + 1


async def test_flushes_are_counted(queue: Queue, meters: Meters) -> None:
    before = meters.value("taquba.flushes")
    await queue.kv_put("key", b"")
    await queue.kv_put("key", b"")
    assert meters.value("taquba.flushes") - before == 2


async def test_depth_is_reported_by_state(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 4)
    await queue.enqueue("q", b"", delay=60)
    await queue.dead_letter(await must_claim(queue), "hopeless")
    await must_claim(queue)
    assert meters.values("taquba.queue.depth", QUEUE, STATE) == {
        ("q", "pending"): 2,
        ("q", "scheduled"): 1,
        ("q", "claimed"): 1,
        ("q", "dead"): 1,
    }
    assert meters.points("taquba.queue.depth")[0][0] == {**IN_Q, STATE: "pending"}


async def test_the_oldest_pending_job_has_the_age_of_its_wait(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    def age() -> float:
        return meters.values("taquba.queue.oldest_pending.age", QUEUE)["q"]

    await queue.enqueue("q", b"", delay=30)
    assert age() == 0
    await mock_clock.advance(40)
    # Ready for 10 s, whenever it was enqueued.
    assert age() == 10
    await queue.enqueue("q", b"", priority=1)
    await mock_clock.advance(5)
    # A younger one is claimed first.
    assert age() == 15
    await queue.claim_batch("q", 2)
    assert age() == 0


async def test_the_age_of_a_retried_job_starts_anew(
    queue: Queue, meters: Meters, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"")
    await mock_clock.advance(100)
    await queue.nack(await must_claim(queue), "no luck")
    await mock_clock.advance(3)
    assert meters.value("taquba.queue.oldest_pending.age") == 3


async def test_no_age_is_reported_of_a_backlog_that_was_not_looked_at(
    open_queue: OpenQueue, meters: Meters, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"")
    await queue.close()
    queue = await open_queue(url, telemetry=meters.provider)
    await mock_clock.advance(7)
    assert meters.points("taquba.queue.oldest_pending.age") == []
    assert meters.values("taquba.queue.depth", STATE)["pending"] == 1
    assert await queue.wait_for_jobs_on("q", timeout=0)
    assert meters.value("taquba.queue.oldest_pending.age") == 7


async def test_a_suspect_that_waits_is_the_oldest_pending_job(
    open_queue: OpenQueue, meters: Meters, mock_clock: MockClock
) -> None:
    url = fresh_url()
    first = await open_queue(url)
    for _ in range(2):
        await first.enqueue("q", b"")
    await first.claim_batch("q", 2)
    await first.kv_delete("nothing")  # makes the claims durable
    queue = await open_queue(url, telemetry=meters.provider, take_over=True)
    # The first suspect runs, and the other waits for it.
    await must_claim(queue)
    await mock_clock.advance(9)
    assert meters.value("taquba.queue.oldest_pending.age") == 9


async def test_requests_to_the_store_are_counted_by_the_engine(
    open_queue: OpenQueue, meters: Meters, tmp_path: Path
) -> None:
    url = str(tmp_path / "store")
    queue = await open_queue(url, telemetry=meters.provider)

    def puts() -> float:
        found = meters.values("taquba.store.requests", "taquba.store", "taquba.store.request")
        return found[url, "put"]

    before, files = puts(), len(list((tmp_path / "store" / "wal").iterdir()))
    for _ in range(10):
        await queue.enqueue("q", b"")
    # Each flush is one object.
    assert len(list((tmp_path / "store" / "wal").iterdir())) - files == 10
    assert puts() - before >= 10


async def test_requests_per_thousand_jobs_start_with_the_first_job_that_ends(
    queue: Queue, meters: Meters
) -> None:
    name = "taquba.store.requests_per_thousand_jobs"
    assert meters.points(name) == []
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 100)
    claims = await queue.claim_batch("q", 100)
    await asyncio.gather(*(queue.ack(claim) for claim in claims))
    requests = meters.value(name) * 100 / 1000
    # A flush for the batch and one for the acks at least; what opening took does not count.
    assert 2 <= requests < sum(meters.values("taquba.store.requests", *REQUEST).values())


async def test_stores_that_share_a_provider_are_told_apart(
    open_queue: OpenQueue, meters: Meters
) -> None:
    urls = [fresh_url(), fresh_url()]
    for count, url in enumerate(urls, 1):
        queue = await open_queue(url, telemetry=meters.provider)
        await queue.enqueue_batch([EnqueueRequest("q", b"")] * count)
    pending = {
        attributes["taquba.store"]: point.value
        for attributes, point in meters.points("taquba.queue.depth")
        if attributes[STATE] == "pending"
    }
    assert pending == {urls[0]: 1, urls[1]: 2}
    assert meters.values("messaging.client.sent.messages", "taquba.store") == pending


async def test_a_closed_store_is_no_longer_reported_and_comes_back_when_reopened(
    open_queue: OpenQueue, meters: Meters
) -> None:
    url = fresh_url()
    queue = await open_queue(url, telemetry=meters.provider)
    await queue.enqueue("q", b"")
    await queue.close()
    assert meters.points("taquba.queue.depth") == []
    await open_queue(url, telemetry=meters.provider)
    assert meters.values("taquba.queue.depth", STATE)["pending"] == 1


async def test_a_fenced_owner_no_longer_reports_the_depth(
    open_queue: OpenQueue, meters: Meters
) -> None:
    url = fresh_url()
    queue = await open_queue(url, telemetry=meters.provider)
    await queue.enqueue("q", b"")
    await open_queue(url, take_over=True)
    with pytest.raises(StoreFenced):
        await queue.enqueue("q", b"")
    assert meters.points("taquba.queue.depth") == []


class Broken:
    """An instrument whose every use fails."""

    def _fail(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the exporter is on fire")

    add = record = _fail


class BrokenMeters(MeterProvider):
    """A provider whose instruments fail when they are used."""

    def get_meter(self, *_: Any, **__: Any) -> Meter:
        meter = NoOpMeterProvider().get_meter("broken")
        meter.create_counter = meter.create_histogram = lambda *_, **__: Broken()  # type: ignore[assignment,method-assign]
        return meter


async def test_a_failing_provider_breaks_no_operation(
    open_queue: OpenQueue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert not issubclass(Broken, Counter | Histogram)
    queue = await open_queue(
        telemetry=BrokenMeters(), default_config=QueueConfig(max_attempts=2, **NO_RETRY_WAIT)
    )
    with caplog.at_level(logging.WARNING, logger="taquba"):
        await queue.enqueue_batch([EnqueueRequest("q", b"")] * 2)
        await queue.ack(await must_claim(queue))
        await queue.renew_lease(await must_claim(queue), 5)
        await mock_clock.advance(6)
        assert await drain(queue, "q", fail) == 1
    stats = await queue.stats("q")
    assert (stats.pending, stats.claimed, stats.done, stats.dead) == (0, 0, 1, 1)
    told = [record for record in caplog.records if record.name == "taquba._telemetry.guard"]
    # Each failing hook is a warning once, not with every job.
    assert 0 < len(told) <= 5
