"""A caller is cancelled at every await point: what was decided lands whole or not at all.

Memory and store agree afterwards, and a claim that nobody received is available again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    Claim,
    ClaimLost,
    EnqueueRequest,
    InvalidState,
    JobNotFound,
    JobRecord,
    LeaseHandle,
    Queue,
    QueueConfig,
    SettlementEffects,
    run_worker,
)
from taquba._queue.claims import OwnedClaim
from taquba.testing import MockClock
from tests.crash.audit import Dump, audit
from tests.crash.held_engine import HeldEngine, hold_engine

TURNS = range(31)

CONFIG = QueueConfig(retry_backoff_base=0, max_attempts=3)

Call = Callable[[Queue], Awaitable[Coroutine[Any, Any, Any]]]
"""Prepares a queue and gives the call that is going to be cancelled."""


@pytest.fixture
async def queue(mock_clock: MockClock) -> AsyncIterator[Queue]:
    async with Queue.open("memory://", default_config=CONFIG, clock=mock_clock) as queue:
        await mock_clock.advance(0)
        yield queue


async def add(queue: Queue, name: str = "q", **options: Any) -> str:
    return (await queue.enqueue(name, b"x", **options)).id


async def hold(queue: Queue, name: str = "q") -> Claim:
    await add(queue, name)
    claim = await queue.claim(name)
    assert claim is not None
    return claim


async def dead(queue: Queue) -> str:
    claim = await hold(queue)
    await queue.dead_letter(claim, "hopeless")
    return claim.id


def effects(tag: str) -> SettlementEffects:
    return SettlementEffects(
        enqueues=[
            EnqueueRequest("f", b"x", dedup_key=tag),
            EnqueueRequest("f", b"x", job_id=f"f-{tag}"),
        ],
        kv_writes={f"effect/{tag}": b"x"},
    )


async def quick(job: JobRecord, lease: LeaseHandle) -> None:
    pass


async def enqueue(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.enqueue("q", b"x", kv_writes={"entry": b"x"})


async def enqueue_with_checks(queue: Queue) -> Coroutine[Any, Any, Any]:
    job_id = queue.next_job_id()
    return queue.enqueue("q", b"x", dedup_key=job_id, job_id=job_id, kv_writes={job_id: b"x"})


async def enqueue_batch(queue: Queue) -> Coroutine[Any, Any, Any]:
    requests = [EnqueueRequest("q", b"x", delay=60), EnqueueRequest("p", b"x", dedup_key="k")]
    return queue.enqueue_batch([*requests, EnqueueRequest("q", b"x")])


async def claim(queue: Queue) -> Coroutine[Any, Any, Any]:
    await add(queue)
    return queue.claim("q")


async def claim_batch(queue: Queue) -> Coroutine[Any, Any, Any]:
    await add(queue)
    await add(queue)
    return queue.claim_batch("q", 5)


async def claim_and_wait(queue: Queue) -> Coroutine[Any, Any, Any]:
    async def call() -> object:
        waiting = asyncio.ensure_future(queue.claim("w", wait=3600))
        try:
            await asyncio.sleep(0)
            await asyncio.gather(waiting, queue.enqueue("w", b"x"))
        except asyncio.CancelledError:
            waiting.cancel()
            await asyncio.wait([waiting])
        return None if waiting.cancelled() else waiting.result()

    return call()


async def ack(queue: Queue) -> Coroutine[Any, Any, Any]:
    claim = await hold(queue)
    return queue.ack(claim, effects(claim.id))


async def ack_plainly(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.ack(await hold(queue))


async def nack(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.nack(await hold(queue), "no luck")


async def dead_letter(queue: Queue) -> Coroutine[Any, Any, Any]:
    claim = await hold(queue)
    return queue.dead_letter(claim, "hopeless", effects(claim.id))


async def cancel_pending(queue: Queue) -> Coroutine[Any, Any, Any]:
    job_id = await add(queue)
    return queue.cancel(job_id, effects(job_id))


async def cancel_scheduled(queue: Queue) -> Coroutine[Any, Any, Any]:
    job_id = await add(queue, delay=60)
    return queue.cancel(job_id)


async def cancel_claimed(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.cancel((await hold(queue)).id)


async def wake(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.wake_scheduled(await add(queue, delay=60), b"now")


async def requeue_dead(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.requeue_dead(await dead(queue))


async def purge_dead(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.purge_dead(await dead(queue))


async def sweep(queue: Queue) -> Coroutine[Any, Any, Any]:
    await dead(queue)
    return queue.sweep_now()


async def kv_put(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.kv_put("entry", b"y")


async def compare_put(queue: Queue) -> Coroutine[Any, Any, Any]:
    value = await queue.kv_get("counter")
    return queue.kv_compare_put("counter", value, str(int(value or b"0") + 1).encode())


async def wait_for_completion(queue: Queue) -> Coroutine[Any, Any, Any]:
    claim = await hold(queue)

    async def call() -> None:
        await asyncio.gather(queue.wait_for_completion(claim.id, timeout=60), queue.ack(claim))

    return call()


async def wait_for_jobs_on(queue: Queue) -> Coroutine[Any, Any, Any]:
    return queue.wait_for_jobs_on("e1", "e2", timeout=60)


async def worker(queue: Queue) -> Coroutine[Any, Any, Any]:
    await add(queue, "worked")
    await add(queue, "worked")
    return run_worker(queue, "worked", quick, concurrency=2)


CALLS: list[Call] = [
    enqueue,
    enqueue_with_checks,
    enqueue_batch,
    claim,
    claim_batch,
    claim_and_wait,
    ack,
    ack_plainly,
    nack,
    dead_letter,
    cancel_pending,
    cancel_scheduled,
    cancel_claimed,
    wake,
    requeue_dead,
    purge_dead,
    sweep,
    kv_put,
    compare_put,
    wait_for_completion,
    wait_for_jobs_on,
    worker,
]


async def come_to_rest(queue: Queue, clock: MockClock) -> Dump:
    await clock.advance(0)
    assert all(not state.waiters._waiting for state in queue._owner.queues.values())
    return await audit(queue)


def check_whole(state: Dump) -> None:
    """What belongs together is there together."""
    for tag in state.entries("effect/"):
        assert f"f-{tag}" in state.jobs
    follow_ups = {job_id[2:] for job_id in state.jobs if job_id.startswith("f-")}
    assert follow_ups == state.entries("effect/").keys()


def check_own(state: Dump) -> None:
    """An enqueue and its entry; only where nobody else takes the job."""
    own = {job_id for job_id in state.jobs if job_id in state.kv}
    assert own == {key for key in state.kv if "/" not in key and key not in ("entry", "counter")}


@pytest.mark.parametrize("prepare", CALLS, ids=lambda prepare: prepare.__name__)
async def test_a_call_cancelled_after_any_number_of_turns_leaves_nothing_by_halves(
    queue: Queue, mock_clock: MockClock, prepare: Call
) -> None:
    for turns in TURNS:
        call = asyncio.ensure_future(await prepare(queue))
        for _ in range(turns):
            await asyncio.sleep(0)
        received = await cancelled(call)
        check_whole(await come_to_rest(queue, mock_clock))
        if prepare in (claim, claim_batch, claim_and_wait):
            await check_claims(queue, "w" if prepare is claim_and_wait else "q", received)
        if prepare is enqueue_with_checks:
            check_own(await audit(queue))
        if prepare is worker:
            stats = await queue.stats("worked")
            assert stats.claimed == 0
            assert stats.pending + stats.done == 2 * (turns + 1)


async def cancelled(call: asyncio.Future[Any]) -> Any:
    """Cancel a call; what it returned if it was done already, else None."""
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return await call
    return None


async def check_claims(queue: Queue, name: str, received: Claim | list[Claim] | None) -> None:
    held = received if isinstance(received, list) else [received] if received else []
    stats = await queue.stats(name)
    assert stats.claimed == len(held), "a claim that nobody received is held"
    # It is there at once, and its attempt was not spent.
    rest = await queue.claim_batch(name, 100) if stats.pending else []
    assert len(rest) == stats.pending
    assert all(claim.attempts == 1 for claim in rest)
    for claim in [*held, *rest]:
        await queue.ack(claim)


@pytest.mark.parametrize("gate", ["get", "write", "flush"])
@pytest.mark.parametrize("prepare", CALLS, ids=lambda prepare: prepare.__name__)
async def test_a_call_cancelled_while_it_waits_for_the_store_leaves_nothing_by_halves(
    queue: Queue, mock_clock: MockClock, prepare: Call, gate: str
) -> None:
    call = asyncio.ensure_future(await prepare(queue))
    held = hold_engine(queue, timeout=30)
    held.hold(gate)
    reached = asyncio.ensure_future(held.reached(gate))
    await asyncio.wait([call, reached], timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
    call.cancel()
    await asyncio.sleep(0)
    held.release()
    reached.cancel()
    received = await cancelled(call)
    check_whole(await come_to_rest(queue, mock_clock))
    if prepare in (claim, claim_batch, claim_and_wait):
        await check_claims(queue, "w" if prepare is claim_and_wait else "q", received)


@pytest.mark.parametrize("gate", ["get", "write", "flush"])
@pytest.mark.parametrize("prepare", [ack, ack_plainly, nack, dead_letter])
async def test_a_claim_whose_settlement_was_cancelled_is_settled_or_still_held(
    queue: Queue, mock_clock: MockClock, prepare: Call, gate: str
) -> None:
    call = asyncio.ensure_future(await prepare(queue))
    (lease,) = queue._owner.leases
    claim = OwnedClaim(queue._owner, lease)
    held = hold_engine(queue, timeout=30)
    held.hold(gate)
    await asyncio.sleep(0.01)
    received = await cancelled(call)
    held.release()
    state = await come_to_rest(queue, mock_clock)
    if lease in list(queue._owner.leases):
        assert state.jobs[claim.id][0] == "claimed"
        await queue.ack(claim, effects(claim.id))
    else:
        with pytest.raises(ClaimLost):
            await queue.ack(claim, effects(claim.id))
    del received
    check_whole(await come_to_rest(queue, mock_clock))


async def test_many_calls_cancelled_together_leave_nothing_by_halves(
    queue: Queue, mock_clock: MockClock
) -> None:
    for turns in range(0, 31, 3):
        calls = [asyncio.ensure_future(await prepare(queue)) for prepare in CALLS]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                # They took each other's jobs; nothing else may have gone wrong.
                assert isinstance(result, (ClaimLost, InvalidState, JobNotFound)), result
        check_whole(await come_to_rest(queue, mock_clock))


@pytest.mark.parametrize("turns", TURNS)
async def test_a_claim_cancelled_while_it_reads_ahead_loses_nothing(
    tmp_path: Path, mock_clock: MockClock, turns: int
) -> None:
    url = f"memory://{tmp_path}"
    async with Queue.open(url, clock=mock_clock) as queue:
        await queue.enqueue_batch([EnqueueRequest("q", b"x") for _ in range(300)])
    # What is pending is not in memory yet: the first claim reads it.
    async with Queue.open(url, clock=mock_clock) as queue:
        call = asyncio.ensure_future(queue.claim("q"))
        other = asyncio.ensure_future(queue.claim("q", wait=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        received = await cancelled(call)
        assert await asyncio.wait_for(other, 5) is not None
        await mock_clock.advance(0)
        rest = await queue.claim_batch("q", 1000)
        rest += await queue.claim_batch("q", 1000)
        assert len(rest) == 299 - (received is not None)
        await audit(queue)


async def test_a_cancelled_claim_passes_its_wakeup_on(queue: Queue) -> None:
    first = asyncio.ensure_future(queue.claim("q", wait=3600))
    second = asyncio.ensure_future(queue.claim("q", wait=3600))
    await asyncio.sleep(0)
    await queue.enqueue("q", b"x")
    first.cancel()
    received = await cancelled(first)
    if received is None:
        assert await asyncio.wait_for(second, 5) is not None
    second.cancel()
    await asyncio.wait([second])


async def test_a_cancelled_worker_passes_its_wakeup_on(queue: Queue) -> None:
    worker = asyncio.ensure_future(run_worker(queue, "q", quick, poll_interval=60))
    await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(queue.claim("q", wait=3600))
    await asyncio.sleep(0.01)
    owner = queue._owner
    enqueue = asyncio.ensure_future(queue.enqueue("q", b"x"))
    # At the very moment at which the worker is woken it is cancelled as well.
    while not (owner.queues["q"].window or enqueue.done()):  # noqa: ASYNC110 - one turn at a time
        await asyncio.sleep(0)
    worker.cancel()
    await asyncio.wait([worker])
    await enqueue
    if (await queue.stats("q")).done == 0:
        claim = await asyncio.wait_for(waiting, 5)
        assert claim is not None
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_cancel_and_a_settlement_with_the_same_effects_do_not_wait_for_each_other(
    queue: Queue,
) -> None:
    """Both need the lock of one dedup key, and the cancel also waits for the settlement."""
    claim = await hold(queue)
    held: HeldEngine = hold_engine(queue, timeout=30)
    held.hold("get")
    cancel = asyncio.ensure_future(queue.cancel(claim.id, effects("same")))
    await asyncio.sleep(0)
    settle = asyncio.ensure_future(queue.ack(claim, effects("same")))
    await asyncio.sleep(0.01)
    held.release()
    async with asyncio.timeout(5):
        await asyncio.gather(cancel, settle)
    assert len((await audit(queue)).jobs) == 2
