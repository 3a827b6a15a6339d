"""What is logged about jobs and queues, and with which fields."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from taquba import (
    EnqueueRequest,
    FailWith,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    Queue,
    QueueConfig,
    RetryAfter,
    SettlementEffects,
    Snooze,
    run_worker,
)
from taquba.testing import MockClock, OpenQueue, drain
from tests.queue.support import NO_RETRY_WAIT

WORKER = "taquba._worker.worker"
SECRET = b"the payload"


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="taquba")


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Queue:
    return await open_queue(default_config=QueueConfig(max_attempts=2, **NO_RETRY_WAIT))


def raising(error: BaseException) -> Callable[[JobRecord, LeaseHandle], None]:
    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        raise error

    return handle


def fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name.startswith("taquba_")}


async def test_an_attempt_of_a_job_without_a_bound_is_not_one_of_two_billion(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    result = await queue.enqueue("q", b"", max_attempts=2**31 - 1)
    await drain(queue, "q", raising(PermanentFailure("no luck")))
    assert caplog.messages == [
        f"job {result.id} of queue 'q' failed in attempt 1 and is now a dead letter: no luck"
    ]


async def test_failed_attempts_are_logged_with_their_traceback(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    result = await queue.enqueue("q", SECRET, headers={"key": "a secret header"})
    assert await drain(queue, "q", raising(ValueError("no luck"))) == 2
    first, second = caplog.records
    assert first.name == second.name == WORKER
    assert first.getMessage() == (
        f"job {result.id} of queue 'q' failed in attempt 1 of 2 and will be tried again: "
        "ValueError: no luck"
    )
    assert "attempt 2 of 2 and is now a dead letter" in second.getMessage()
    assert [first.levelno, second.levelno] == [logging.INFO, logging.WARNING]
    assert fields(first) == {
        "taquba_queue": "q",
        "taquba_job_id": result.id,
        "taquba_attempt": 1,
    }
    assert fields(second)["taquba_attempt"] == 2
    assert "in handle" in caplog.text
    assert "the payload" not in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("error", "levels"),
    [
        (PermanentFailure("hopeless"), [logging.WARNING]),
        (RetryAfter(0, "busy"), [logging.INFO, logging.WARNING]),
        (FailWith("no luck", SettlementEffects()), [logging.INFO, logging.WARNING]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_handler_decides_has_no_traceback(
    queue: Queue, caplog: pytest.LogCaptureFixture, error: Exception, levels: list[int]
) -> None:
    await queue.enqueue("q", b"")
    await drain(queue, "q", raising(error))
    assert [record.levelno for record in caplog.records] == levels
    assert all(record.exc_info is None for record in caplog.records)


async def test_an_exception_inside_fail_with_keeps_its_traceback(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    cause = ValueError("no luck")
    await queue.enqueue("q", b"", max_attempts=1)
    await drain(queue, "q", raising(FailWith(cause, SettlementEffects())))
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is cause


async def test_success_and_snoozing_are_not_logged(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.enqueue("q", b"")
    await queue.enqueue("later", b"")
    assert await drain(queue, "q", lambda job, lease: None) == 1
    assert await drain(queue, "later", raising(Snooze(60))) == 1
    assert caplog.records == []


async def test_a_lost_claim_names_its_job(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    result = await queue.enqueue("q", b"")
    handler_runs = asyncio.Event()

    async def outlive(job: JobRecord, lease: LeaseHandle) -> None:
        handler_runs.set()
        await mock_clock.advance(31)

    await run_worker(queue, "q", outlive, auto_renew=False, shutdown=handler_runs)
    [reaped, lost] = caplog.records
    assert reaped.getMessage() == "took back 1 jobs of queue 'q' whose lease expired"
    assert fields(reaped) == {"taquba_queue": "q"}
    assert "could not be settled" in lost.getMessage()
    assert fields(lost) == {"taquba_queue": "q", "taquba_job_id": result.id, "taquba_attempt": 1}


async def test_expired_leases_are_logged_once_per_queue(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.enqueue_batch([EnqueueRequest(name, b"") for name in ("a", "b", "b")])
    await queue.claim("a")
    await queue.claim_batch("b", 2)
    await mock_clock.advance(31)
    assert {(record.taquba_queue, record.args) for record in caplog.records} == {  # type: ignore[attr-defined]
        ("a", (1, "a")),
        ("b", (2, "b")),
    }
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
