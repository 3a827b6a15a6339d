from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from taquba import (
    AttemptOutcome,
    CancelOutcome,
    CancelRequested,
    Claim,
    ClaimLost,
    EnqueueRequest,
    EnqueueResult,
    FailWith,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    QueueClosed,
    QueueConfig,
    RetryAfter,
    SettlementEffects,
    Snooze,
    StoreFenced,
    run_worker,
)
from taquba._queue import claims
from taquba.testing import MockClock
from tests.crash.held_engine import hold_engine
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, fresh_url, leftovers, must_claim
from tests.worker.support import REAL_SECONDS, Gate, Panic, add_jobs, finish, working


async def succeed(job: JobRecord, lease: LeaseHandle) -> None:
    pass


@pytest.fixture
async def eager(open_queue: OpenQueue) -> Queue:
    """A queue that retries at once."""
    return await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))


# -- what a handler's end means -----------------------------------------------------------------


async def test_a_return_acknowledges(queue: Queue) -> None:
    seen: list[JobRecord] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        assert isinstance(lease, LeaseHandle)
        seen.append(job)

    ids = await add_jobs(queue, 5)
    async with working(queue, handle):
        await finish(queue, *ids)
    assert [job.id for job in seen] == ids
    assert [job.payload for job in seen] == [b"0", b"1", b"2", b"3", b"4"]
    assert {job.status for job in seen} == {JobStatus.CLAIMED}
    assert {job.attempts for job in seen} == {1}
    assert (await queue.stats("q")).done == 5
    assert await leftovers(queue) == {}


async def test_jobs_that_come_later_are_run(queue: Queue, mock_clock: MockClock) -> None:
    async with working(queue, succeed):
        await finish(queue, *await add_jobs(queue, 1))
        (late,) = await add_jobs(queue, 1, delay=10)
        await mock_clock.advance(10)
        await finish(queue, late)


async def test_returned_effects_land_with_the_ack(queue: Queue) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(
            enqueues=[EnqueueRequest("next", job.payload)], kv_writes={job.id: b"done"}
        )

    ids = await add_jobs(queue, 2)
    async with working(queue, handle):
        await finish(queue, *ids)
    assert (await queue.stats("next")).pending == 2
    assert [await queue.kv_get(job_id) for job_id in ids] == [b"done"] * 2


async def test_an_exception_nacks_with_its_type_and_message(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise KeyError("missing")

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, fail):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert (job.status, job.last_error) == (JobStatus.DEAD, "KeyError: 'missing'")


@pytest.mark.parametrize("in_thread", [False, True], ids=["async", "thread"])
async def test_what_is_raised_beside_exceptions_fails_the_attempt_too(
    queue: Queue, in_thread: bool
) -> None:
    def panic(job: JobRecord, lease: object) -> None:
        raise Panic("index out of bounds")

    async def panic_here(job: JobRecord, lease: LeaseHandle) -> None:
        panic(job, lease)

    first, second = await add_jobs(queue, 2, max_attempts=1)
    async with working(queue, panic if in_thread else panic_here):
        jobs = await finish(queue, first, second)
    assert [job and job.last_error for job in jobs] == ["Panic: index out of bounds"] * 2


async def test_an_exception_without_a_message(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise RuntimeError

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, fail):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert job.last_error == "RuntimeError"


async def test_a_failing_job_is_tried_again(queue: Queue, mock_clock: MockClock) -> None:
    attempts: list[int] = []

    async def fail_twice(job: JobRecord, lease: LeaseHandle) -> None:
        attempts.append(job.attempts)
        if job.attempts < 3:
            raise RuntimeError(f"attempt {job.attempts}")

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, fail_twice):
        await mock_clock.advance(0)
        assert attempts == [1]
        await mock_clock.advance(2)
        assert attempts == [1, 2]
        history = await queue.attempt_history(job_id)
        await mock_clock.advance(3)
        await finish(queue, job_id)
    assert attempts == [1, 2, 3]
    assert [(entry.outcome, entry.error) for entry in history] == [
        (AttemptOutcome.RETRIED, "RuntimeError: attempt 1"),
        (AttemptOutcome.RETRIED, "RuntimeError: attempt 2"),
    ]


async def test_a_permanent_failure_dead_letters_at_once(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise PermanentFailure("cannot be parsed")

    (job_id,) = await add_jobs(queue, 1, max_attempts=5)
    async with working(queue, fail):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.DEAD, 1)
    assert job.last_error == "cannot be parsed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [("as text", "as text"), (ValueError("as error"), "ValueError: as error")],
    ids=["text", "exception"],
)
async def test_fail_with_applies_effects_when_it_dead_letters(
    eager: Queue, error: str | Exception, expected: str
) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        attempt = str(job.attempts)
        raise FailWith(error, SettlementEffects(kv_writes={f"attempt{attempt}": b""}))

    (job_id,) = await add_jobs(eager, 1, max_attempts=2)
    async with working(eager, fail):
        (job,) = await finish(eager, job_id)
    assert job is not None
    assert (job.status, job.attempts, job.last_error) == (JobStatus.DEAD, 2, expected)
    # Those of the retried attempt were discarded.
    assert [entry.key for entry in (await eager.kv_scan("attempt")).entries] == ["attempt2"]


async def test_fail_with_a_permanent_failure_dead_letters_at_once(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise FailWith(PermanentFailure("never"), SettlementEffects(kv_writes={"k": b"v"}))

    (job_id,) = await add_jobs(queue, 1, max_attempts=5)
    async with working(queue, fail):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert (job.attempts, job.last_error) == (1, "never")
    assert await queue.kv_get("k") == b"v"


@pytest.mark.parametrize("delay", [60, timedelta(minutes=1)])
async def test_retry_after_waits_as_long_and_counts_as_an_attempt(
    queue: Queue, mock_clock: MockClock, delay: float | timedelta
) -> None:
    attempts: list[int] = []

    async def ask_for_later(job: JobRecord, lease: LeaseHandle) -> None:
        attempts.append(job.attempts)
        if job.attempts == 1:
            raise RetryAfter(delay, "rate limited")

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, ask_for_later):
        await mock_clock.advance(0)
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.last_error) == (JobStatus.SCHEDULED, "rate limited")
        assert job.run_at == mock_clock.now() + timedelta(seconds=60)
        await mock_clock.advance(60)
        await finish(queue, job_id)
    assert attempts == [1, 2]


async def test_retry_after_no_time_is_at_once(queue: Queue) -> None:
    async def ask_for_later(job: JobRecord, lease: LeaseHandle) -> None:
        if job.attempts < 3:
            raise RetryAfter(0)

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, ask_for_later):
        await finish(queue, job_id)
    assert (await queue.stats("q")).done == 1


async def test_retry_after_in_the_last_attempt_dead_letters(queue: Queue) -> None:
    async def ask_for_later(job: JobRecord, lease: LeaseHandle) -> None:
        raise RetryAfter(60, "rate limited")

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, ask_for_later):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert (job.status, job.last_error) == (JobStatus.DEAD, "rate limited")


@pytest.mark.parametrize("wrapped", [False, True], ids=["raised", "with effects"])
async def test_a_snoozed_job_waits_without_spending_its_attempt(
    queue: Queue, mock_clock: MockClock, wrapped: bool
) -> None:
    attempts: list[int] = []

    async def put_off(job: JobRecord, lease: LeaseHandle) -> None:
        attempts.append(job.attempts)
        if len(attempts) <= 3:
            later = Snooze(60, "the receiver is busy")
            raise FailWith(later, SettlementEffects(kv_writes={"k": b"v"})) if wrapped else later

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, put_off):
        for _ in range(3):
            await mock_clock.advance(0)
            job = await queue.get_job(job_id)
            assert job is not None
            assert (job.status, job.attempts) == (JobStatus.SCHEDULED, 0)
            assert job.run_at == mock_clock.now() + timedelta(seconds=60)
            assert job.last_error == "the receiver is busy"
            assert await queue.attempt_history(job_id) == []
            await mock_clock.advance(60)
        await finish(queue, job_id)
    assert attempts == [1, 1, 1, 1]
    assert (await queue.stats("q")).done == 1
    assert await queue.kv_get("k") is None


async def test_a_snoozed_job_that_was_asked_to_cancel_stays_so(
    queue: Queue, mock_clock: MockClock
) -> None:
    asked: list[bool] = []

    async def put_off(job: JobRecord, lease: LeaseHandle) -> None:
        asked.append(lease.cancel_token.cancelled)
        if len(asked) == 1:
            await queue.cancel(job.id)
            raise Snooze(60)

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, put_off):
        await mock_clock.advance(60)
        await finish(queue, job_id)
    assert asked == [False, True]


@pytest.mark.parametrize("nonsense", ["text", 5, {"kv_writes": {}}, [EnqueueRequest("q", b"")]])
async def test_a_handler_that_returns_nonsense_fails_its_job(eager: Queue, nonsense: Any) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> Any:
        return nonsense if job.payload == b"0" else None

    ids = await add_jobs(eager, 2)
    async with working(eager, handle):
        job, _ = await finish(eager, *ids)
    assert job is not None
    assert job.status is JobStatus.DEAD
    assert job.last_error is not None
    assert f"SettlementEffects, not {type(nonsense).__name__}" in job.last_error
    assert (await eager.stats("q")).done == 1


async def test_effects_that_cannot_be_applied_fail_the_attempt(eager: Queue) -> None:
    await eager.enqueue("other", b"", job_id="taken")

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(enqueues=[EnqueueRequest("other", b"", job_id="taken")])

    (job_id,) = await add_jobs(eager, 1)
    async with working(eager, handle):
        (job,) = await finish(eager, job_id)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.DEAD, 3)
    assert job.last_error is not None
    assert job.last_error.startswith("DuplicateJobId: ")


async def test_a_handler_that_raises_a_cancellation_of_its_own_fails_its_attempt(
    eager: Queue,
) -> None:
    """Nobody cancelled the worker: something that the handler waited for was cancelled."""

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        inner = asyncio.create_task(asyncio.sleep(3600))
        inner.cancel()
        await inner

    (job_id,) = await add_jobs(eager, 1)
    async with working(eager, handle):
        (job,) = await finish(eager, job_id)
    assert job is not None
    assert (job.status, job.attempts, job.last_error) == (JobStatus.DEAD, 3, "CancelledError")


async def test_a_message_that_utf8_cannot_hold(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise FileNotFoundError(2, "No such file", "b\udce4r")

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, fail):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert job.last_error is not None
    assert "b\\udce4r" in job.last_error


# -- time-outs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [5, timedelta(seconds=5)])
async def test_a_handler_over_its_timeout_fails_its_attempt(
    queue: Queue, mock_clock: MockClock, timeout: float | timedelta
) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, gate, timeout=timeout):
        await gate.starts(1)
        await mock_clock.advance(4.999)
        assert gate.cancelled == []
        await mock_clock.advance(0.001)
        (job,) = await finish(queue, job_id)
    assert gate.cancelled == [job_id]
    assert job is not None
    assert job.last_error == "TimeoutError: the handler ran longer than its timeout of 5 s"


async def test_a_handlers_own_timeout_error_keeps_its_message(queue: Queue) -> None:
    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise TimeoutError("of my own")

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, fail, timeout=60):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert job.last_error == "TimeoutError: of my own"


async def test_a_handler_within_its_timeout_is_left_alone(queue: Queue) -> None:
    ids = await add_jobs(queue, 3)
    async with working(queue, succeed, timeout=60, on_cancel="interrupt"):
        await finish(queue, *ids)
    assert (await queue.stats("q")).done == 3


# -- leases -------------------------------------------------------------------------------------


async def test_a_handler_longer_than_its_lease_keeps_it(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, gate, lease=10):
        await gate.starts(1)
        for _ in range(20):
            await mock_clock.advance(7)
            assert (await queue.stats("q")).claimed == 1
        gate.open.set()
        await finish(queue, job_id)
    assert gate.started == [job_id]
    assert (await queue.stats("q")).done == 1


async def test_the_queues_lease_is_kept_too(queue: Queue, mock_clock: MockClock) -> None:
    gate = Gate()
    ids = await add_jobs(queue, 3)
    async with working(queue, gate, concurrency=3):
        await gate.starts(3)
        await mock_clock.advance(3600)
        gate.open.set()
        await finish(queue, *ids)
    assert (await queue.stats("q")).done == 3


async def test_without_auto_renew_the_lease_runs_out(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, gate, lease=10, auto_renew=False):
        await gate.starts(1)
        await mock_clock.advance(10)
        assert (await queue.stats("q")).pending == 1
        taken = await must_claim(queue)
        gate.open.set()
        await mock_clock.advance(0)
        # The loop goes on with what comes.
        (other,) = await add_jobs(queue, 1)
        await finish(queue, other)
        await queue.ack(taken)
    assert gate.started == [job_id, other]
    assert f"job {job_id} could not be settled" in caplog.text


async def test_a_lost_claim_is_logged_and_the_loop_goes_on(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def lose(job: JobRecord, lease: LeaseHandle) -> None:
        if job.payload == b"0" and job.attempts == 1:
            # Past the lease in one step, before a renewal is due.
            mock_clock._now += 30_000
            assert await queue.reap_now() == 1
            with pytest.raises(ClaimLost):
                lease.ensure_at_least(5)

    with caplog.at_level(logging.WARNING):
        ids = await add_jobs(queue, 3)
        async with working(queue, lose):
            await finish(queue, *ids)
    assert f"job {ids[0]} could not be settled: the claim on job '{ids[0]}' is lost" in caplog.text
    assert (await queue.stats("q")).done == 3


async def test_ensure_at_least_extends_and_never_shortens(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        start = mock_clock.now()
        assert lease.expires_at == start + timedelta(seconds=30)
        lease.ensure_at_least(10)
        assert lease.expires_at == start + timedelta(seconds=30)
        lease.ensure_at_least(timedelta(minutes=5))
        assert lease.expires_at == start + timedelta(seconds=300)
        lease.ensure_at_least(60)
        assert lease.expires_at == start + timedelta(seconds=300)
        with pytest.raises(InvalidArgument, match=r"duration.*-1"):
            lease.ensure_at_least(-1)

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, handle):
        assert await finish(queue, job_id) == [None]


async def test_a_renewal_does_not_shorten_what_the_handler_asked_for(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        lease.ensure_at_least(3600)
        await gate(job, lease)

    (job_id,) = await add_jobs(queue, 1)
    expected = mock_clock.now() + timedelta(hours=1)
    async with working(queue, handle):
        await gate.starts(1)
        await mock_clock.advance(600)
        assert await queue.lease_expiry(job_id) == expected
        gate.open.set()


async def test_a_handler_can_have_itself_told_that_its_hold_is_over(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    seen: list[int] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        def over() -> None:
            # Another attempt may have begun already.
            with pytest.raises(ClaimLost):
                lease.ensure_at_least(1)
            seen.append(job.attempts)

        lease.on_end(over)
        if job.attempts == 1:
            raise ValueError
        if job.attempts == 2:
            # Past the lease in one step, before a renewal is due.
            mock_clock._now += 30_000
            await queue.reap_now()
            lease.on_end(over)
        if job.attempts == 3:
            # Refused, so the attempt fails, and only then is the hold over.
            clash = EnqueueRequest("q", b"", job_id=job.id)
            return SettlementEffects(enqueues=[clash])
        return SettlementEffects(kv_writes={"done": b"yes"})

    (job_id,) = await add_jobs(queue, 1, max_attempts=9)
    async with working(queue, handle):
        await finish(queue, job_id)
    assert seen == [1, 2, 2, 3, 4]


async def test_what_a_handler_decided_is_visible_once_its_hold_is_over(queue: Queue) -> None:
    found = asyncio.get_running_loop().create_future()

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        lease.on_end(lambda: found.set_result(asyncio.ensure_future(queue.kv_get("done"))))
        return SettlementEffects(kv_writes={"done": b"yes"})

    await add_jobs(queue, 1)
    async with working(queue, handle):
        assert await (await found) == b"yes"


# -- cancellation of jobs -----------------------------------------------------------------------


async def test_notify_only_fires_the_token(queue: Queue) -> None:
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        assert not lease.cancel_token.cancelled
        started.set()
        await lease.cancel_token.wait()
        with pytest.raises(CancelRequested):
            lease.ensure_at_least(60)
        return SettlementEffects(kv_writes={"stopped": b"by itself"})

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, handle):
        await started.wait()
        assert await queue.cancel(job_id) is CancelOutcome.REQUESTED
        await finish(queue, job_id)
    assert await queue.kv_get("stopped") == b"by itself"


async def test_a_handler_that_stops_because_its_lease_refused_to_go_on_ends_the_job(
    queue: Queue,
) -> None:
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        await lease.cancel_token.wait()
        lease.ensure_at_least(60)

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, handle):
        await started.wait()
        await queue.cancel(job_id)
        await finish(queue, job_id)
    job = await queue.get_job(job_id)
    assert job is not None
    assert (job.status, job.attempts) == ("dead", 1)
    assert job.last_error == "cancelled on request"


async def test_refused_effects_of_a_failure_do_not_keep_the_job(queue: Queue) -> None:
    taken = await queue.enqueue("other", b"")

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        again = EnqueueRequest("other", b"", job_id=taken.id)
        raise FailWith(PermanentFailure("never"), SettlementEffects(enqueues=[again]))

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, handle):
        await finish(queue, job_id)
    job = await queue.get_job(job_id)
    assert job is not None
    assert job.status == "dead"
    assert job.last_error is not None
    assert taken.id in job.last_error


async def test_a_job_asked_to_cancel_keeps_its_lease_while_the_handler_cleans_up(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, gate):
        await gate.starts(1)
        await queue.cancel(job_id)
        await mock_clock.advance(600)
        assert (await queue.stats("q")).claimed == 1
        gate.open.set()
        await finish(queue, job_id)
    assert gate.cancelled == []


@pytest.mark.parametrize("timeout", [None, 60])
async def test_interrupt_cancels_the_handler_and_dead_letters(
    queue: Queue, timeout: float | None
) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1, max_attempts=5)
    async with working(queue, gate, on_cancel="interrupt", timeout=timeout):
        await gate.starts(1)
        await queue.cancel(job_id)
        (job,) = await finish(queue, job_id)
    assert gate.cancelled == [job_id]
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.DEAD, 1)
    assert job.last_error == "cancelled on request"


async def test_an_interrupted_handler_may_raise_what_it_likes(queue: Queue) -> None:
    """An error during the clean-up is the handler's affair; the job ends as asked."""
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        try:
            started.set()
            await asyncio.sleep(3600)
        finally:
            raise RuntimeError("clean-up failed")

    (job_id,) = await add_jobs(queue, 1, max_attempts=5)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, info: complaints.append(info))
    async with working(queue, handle, on_cancel="interrupt"):
        await started.wait()
        await queue.cancel(job_id)
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert job.last_error == "cancelled on request"
    assert complaints == []


async def test_interrupt_also_ends_a_redelivered_job(queue: Queue, mock_clock: MockClock) -> None:
    (job_id,) = await add_jobs(queue, 1)
    await must_claim(queue, lease=5)
    await queue.cancel(job_id)
    await mock_clock.advance(5)
    gate = Gate()
    async with working(queue, gate, on_cancel="interrupt"):
        (job,) = await finish(queue, job_id)
    assert job is not None
    assert job.last_error == "cancelled on request"


# -- capacity -----------------------------------------------------------------------------------


async def test_one_handler_at_a_time_by_default(queue: Queue) -> None:
    gate = Gate()
    await add_jobs(queue, 3)
    async with working(queue, gate):
        await gate.starts(1)
        assert (await queue.stats("q")).pending == 2
        assert (await queue.stats("q")).claimed == 1
        gate.open.set()
        await gate.starts(3)


async def test_claims_are_sized_to_the_free_capacity(queue: Queue, mock_clock: MockClock) -> None:
    gates = [asyncio.Event() for _ in range(12)]
    running: set[int] = set()
    most = 0

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal most
        number = int(job.payload)
        running.add(number)
        most = max(most, len(running))
        await gates[number].wait()
        running.remove(number)

    ids = await add_jobs(queue, 12)
    async with working(queue, handle, concurrency=4):
        await mock_clock.advance(0)
        assert running == {0, 1, 2, 3}
        assert (await queue.stats("q")).claimed == 4
        # Two places become free: two jobs are claimed, the rest is left for other workers.
        gates[1].set()
        gates[3].set()
        await mock_clock.advance(0)
        assert running == {0, 2, 4, 5}
        assert (await queue.stats("q")).claimed == 4
        for gate in gates:
            gate.set()
        await finish(queue, *ids)
    assert most == 4
    assert (await queue.stats("q")).done == 12


async def test_two_workers_share_a_queue(queue: Queue) -> None:
    gate = Gate()
    async with working(queue, gate), working(queue, gate):
        ids = await add_jobs(queue, 2)
        await gate.starts(2)
        gate.open.set()
    assert sorted(gate.started) == sorted(ids)


# -- how a loop ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("event", [anyio.Event, asyncio.Event])
async def test_shutdown_is_either_kind_of_event(
    queue: Queue, event: Callable[[], anyio.Event | asyncio.Event]
) -> None:
    shutdown = event()
    task = asyncio.create_task(run_worker(queue, "q", succeed, shutdown=shutdown))
    ids = await add_jobs(queue, 1)
    await finish(queue, *ids)
    shutdown.set()
    async with asyncio.timeout(REAL_SECONDS):
        await task


async def test_a_worker_that_was_shut_down_before_it_began_claims_nothing(queue: Queue) -> None:
    shutdown = asyncio.Event()
    shutdown.set()
    await add_jobs(queue, 1)
    await run_worker(queue, "q", succeed, shutdown=shutdown)
    assert (await queue.stats("q")).pending == 1


async def test_closing_the_queue_ends_the_loop(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    task = asyncio.create_task(run_worker(queue, "q", succeed))
    await finish(queue, *await add_jobs(queue, 1))
    await queue.close()
    with pytest.raises(QueueClosed):
        await task


async def test_claim_path_errors_end_the_loop(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    task = asyncio.create_task(run_worker(queue, "q", succeed))
    await finish(queue, *await add_jobs(queue, 1))
    await open_queue(url, take_over=True)
    with pytest.raises(StoreFenced):
        await queue.enqueue("q", b"")
    async with asyncio.timeout(REAL_SECONDS):
        with pytest.raises(StoreFenced):
            await task


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "concurrency 0": ({"concurrency": 0}, InvalidArgument, "concurrency.*0"),
    "concurrency 1.5": ({"concurrency": 1.5}, InvalidArgumentType, "concurrency.*1.5"),
    "on_cancel": ({"on_cancel": "ignore"}, InvalidArgument, "on_cancel.*'ignore'"),
    "poll_interval": ({"poll_interval": 0}, InvalidArgument, "poll_interval.*0"),
    "shutdown": ({"shutdown": "now"}, InvalidArgumentType, "shutdown.*'now'"),
    "executor": ({"executor": 4}, InvalidArgumentType, "executor.*4"),
    "handler": ({"handler": "work"}, InvalidArgumentType, "handler.*'work'"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
async def test_bad_arguments(
    queue: Queue, case: tuple[dict[str, Any], type[Exception], str]
) -> None:
    options, kind, message = case
    await add_jobs(queue, 1)
    arguments: dict[str, Any] = {"handler": succeed} | options
    with pytest.raises(kind, match=message):
        await run_worker(queue, "q", **arguments)
    assert (await queue.stats("q")).pending == 1


async def test_outcome_errors_check_their_arguments() -> None:
    with pytest.raises(InvalidArgument, match=r"delay.*-1"):
        RetryAfter(-1)
    with pytest.raises(InvalidArgument, match=r"delay.*0"):
        Snooze(0)
    with pytest.raises(InvalidArgumentType, match=r"effects.*dict"):
        FailWith("error", {})  # type: ignore[arg-type]


async def test_an_idle_worker_sleeps_between_its_looks(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    claim_ahead = claims.claim_ahead

    async def counted(*arguments: Any) -> list[Claim]:
        looks.append(loop.time())
        if len(looks) == 6:
            enough.set()
        return await claim_ahead(*arguments)

    monkeypatch.setattr(claims, "claim_ahead", counted)
    await add_jobs(queue, 1)

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        return None

    poll = 0.05
    worker = asyncio.create_task(
        run_worker(queue, "q", handle, shutdown=enough, poll_interval=poll)
    )
    await worker
    # One look finds the job, one or two come when it ended; the others wait for the poll.
    assert looks[-1] - looks[0] >= 2 * poll


async def test_a_handler_can_enqueue_under_the_dedup_key_of_its_own_job(queue: Queue) -> None:
    # Its claim, which frees the key, may not be written yet when the handler starts.
    engine = hold_engine(queue)
    stop = asyncio.Event()
    results: list[EnqueueResult] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        asyncio.get_running_loop().call_later(0.02, engine.release)
        results.append(await queue.enqueue("q", b"next", dedup_key="once", delay=60))
        stop.set()

    first, _ = await queue.enqueue("q", b"x", dedup_key="once")
    engine.hold("write")
    await run_worker(queue, "q", handler, shutdown=stop)
    (result,) = results
    assert result.new
    assert await queue.enqueue("q", b"x", dedup_key="once") == (result.id, False)
    assert result.id != first
