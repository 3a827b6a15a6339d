"""Claims that a former owner had not written, as a new one repeats them."""

from __future__ import annotations

from taquba import JobStatus, Queue
from taquba._line.joining import NamedJob
from taquba._queue.adoption import Adoption
from taquba._rules import transitions
from taquba.testing import MockClock


async def test_a_claim_is_repeated_unless_its_job_was_woken_since(
    queue: Queue, mock_clock: MockClock
) -> None:
    owner = queue._owner
    adoption = Adoption(owner, {}, lambda job: transitions.interrupt(job, 0, "not named"))
    for woken_after_ms in (-1, 1):
        enqueued = await queue.enqueue("q", b"", delay=60)
        await queue.wake_scheduled(enqueued.id, b"a message")
        claimed_at = mock_clock.time_ms() - woken_after_ms
        named = NamedJob("q", enqueued.id, 1000, 1, claimed_at)
        (lease,) = await adoption.adopt("a process", [named])
        job = await queue.get_job(enqueued.id)
        assert job is not None
        assert (lease is None) == (woken_after_ms > 0)
        assert (job.status is JobStatus.PENDING) == (woken_after_ms > 0)
