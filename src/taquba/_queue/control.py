"""Acting on jobs by id: cancel, wake, requeue, purge, wait for completion."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeGuard

from taquba._engine.reads import bounded
from taquba._memory.leases import Lease
from taquba._memory.locks import HeldLocks
from taquba._model import keys, validate
from taquba._model.clock import wait_until_done
from taquba._model.codec import decode_job
from taquba._model.errors import (
    DuplicateJobId,
    EntryChanged,
    InvalidState,
    JobNotFound,
    UnreadableJob,
)
from taquba._model.options import SettlementEffects
from taquba._model.records import (
    CancelOutcome,
    Job,
    JobStatus,
    WaitOutcome,
    WaitStatus,
    WakeOutcome,
)
from taquba._queue.enqueueing import stage_effects
from taquba._queue.listings import get_job, locate, locate_row
from taquba._queue.owner import Owner
from taquba._rules import transitions
from taquba._store.transaction import Transaction


class Resting(NamedTuple):
    """A job that is not claimed and not moving at this instant."""

    job: Job
    status: JobStatus
    key: bytes
    damage: UnreadableJob | None = None
    """Why its record cannot be read; `job` then has only the information in its key."""


async def locate_job(owner: Owner, job_id: str) -> Lease | Resting | None:
    """Find a job so that the caller may decide on it before it awaits anything else.

    A claimed job is found as its held lease. Any other is read from the store; the read is
    repeated when something moved the job meanwhile.
    """
    while isinstance(found := await _look(owner, job_id), asyncio.Future):
        await _landing(owner, found)
    return found


async def _look(owner: Owner, job_id: str) -> Lease | Resting | asyncio.Future[None] | None:
    """Like `locate_job`, but a commit in flight that moves the job is returned, not waited for."""
    while True:
        lease = owner.leases.get(job_id)
        if lease is not None:
            return lease if lease.state == "held" else lease.landed()
        move = owner.moves.in_flight(job_id)
        if move is not None:
            return move
        watch = owner.moves.watch(job_id)
        try:
            row = await locate_row(owner.engine, job_id)
        finally:
            owner.moves.unwatch(job_id, watch)
        if watch.moved:
            continue
        if row is None:
            return None
        location, key, value = row
        try:
            job = decode_job(location.queue, job_id, value)
        except UnreadableJob as damage:
            nothing_known = Job(job_id, location.queue, b"", None, 0, 0, 1)
            return Resting(nothing_known, location.status, key, damage)
        if location.status is JobStatus.CLAIMED:
            # Only a lease makes a claim: the row is about to be reported as settled or given back.
            await owner.committer.barrier()
            continue
        return Resting(job, location.status, key)


async def _landing(owner: Owner, move: asyncio.Future[None]) -> None:
    await bounded(asyncio.shield(move), "a commit in flight")
    owner.check()


def _begin_move(owner: Owner, transaction: Transaction, job_id: str) -> None:
    owner.moves.begin(job_id)
    transaction.finally_(lambda: owner.moves.end(job_id))


async def cancel(owner: Owner, job_id: str, effects: SettlementEffects | None) -> CancelOutcome:
    """Remove a waiting job, with `effects` in the same commit, or ask a claimed one to stop."""
    if effects is not None:
        validate.instance(effects, SettlementEffects, "effects")
    while True:
        found = await locate_job(owner, job_id)
        if isinstance(found, Lease):
            request = Transaction()
            _request_cancel(request, found)
            await owner.committer.submit(request, durable=True)
            return CancelOutcome.REQUESTED
        if not _can_be_removed(found):
            await _until_durable(owner, job_id)
            return CancelOutcome.NOT_FOUND
        removal = Transaction()
        now = found if effects is None else await _stage_effects(owner, removal, effects, job_id)
        if _can_be_removed(now):
            # The removal frees its dedup key before the effects may take it.
            staged, removal.ops = removal.ops, []
            _remove(owner, removal, now)
            removal.ops += staged
            await owner.committer.submit(removal, durable=True)
            return CancelOutcome.REMOVED
        # The job moved while the effects were staged, so they do not apply to it.
        removal.abandon()


def _can_be_removed(found: object) -> TypeGuard[Resting]:
    waiting = (JobStatus.PENDING, JobStatus.SCHEDULED)
    if not isinstance(found, Resting):
        return False
    # A damaged record that is claimed has no holder: its data about the claim cannot be read.
    return found.status in waiting or (
        found.damage is not None and found.status is JobStatus.CLAIMED
    )


async def _stage_effects(
    owner: Owner, removal: Transaction, effects: SettlementEffects, job_id: str
) -> Lease | Resting | asyncio.Future[None] | None:
    """Stage the effects of a removal, and read the job again, which may have moved."""
    try:
        await stage_effects(owner, removal, effects, at_once=False, leaving=job_id)
    except (DuplicateJobId, EntryChanged):
        # Effects of a missing job are not refused; another cancel may have had the same ones.
        moved = await locate_job(owner, job_id)
        if _can_be_removed(moved):
            raise
        return moved
    try:
        # A settlement in flight is not waited for: it may itself wait for locks of these effects.
        return await _look(owner, job_id)
    except BaseException:
        removal.abandon()
        raise


def _request_cancel(transaction: Transaction, lease: Lease) -> None:
    change = transitions.request_cancel(lease.job)
    transaction.add(change)
    # A settlement decided from now on must include the request, whether it is applied or not.
    before, lease.job = lease.job, change.job

    def failed() -> None:
        lease.job = before

    transaction.on_applied.append(lease.fire_token)
    transaction.on_failed.append(failed)


def _remove(owner: Owner, transaction: Transaction, found: Resting) -> None:
    change = transitions.cancel(found.job, found.status, found.key)
    transaction.add(change)
    leave_window(owner, transaction, found)
    owner.landed_with(transaction, (change,))


def leave_window(owner: Owner, transaction: Transaction, found: Resting) -> None:
    """Take a pending or scheduled job out of its window until the transaction has ended."""
    job, key = found.job, found.key
    if found.damage is not None:
        # It is in no window.
        _begin_move(owner, transaction, job.id)
        return
    state = owner.queue(job.queue)
    owner.gate.remove(state, key)
    window = owner.scheduled if found.status is JobStatus.SCHEDULED else state.window
    _begin_move(owner, transaction, job.id)
    window.remove(key)
    transaction.finally_(lambda: window.forget(key))
    put_back = owner.add_scheduled if found.status is JobStatus.SCHEDULED else owner.add_pending
    transaction.on_failed.append(lambda: put_back(key, job))


async def wake_scheduled(
    owner: Owner, job_id: str, payload: bytes | None, *, if_unbegun: bool
) -> WakeOutcome:
    found = await locate_job(owner, job_id)
    if (
        not isinstance(found, Resting)
        or found.status is not JobStatus.SCHEDULED
        or (if_unbegun and not _is_unbegun(found.job))
    ):
        await _until_durable(owner, job_id)
        return WakeOutcome.NOT_FOUND if found is None else WakeOutcome.NOT_SCHEDULED
    if found.damage is not None:
        raise found.damage
    transaction = Transaction()
    change = transitions.wake(found.job, found.key, owner.clock.time_ms(), payload)
    transaction.add(change)
    leave_window(owner, transaction, found)
    owner.landed_with(transaction, (change,))
    await owner.committer.submit(transaction, durable=True)
    return WakeOutcome.WOKEN


def _is_unbegun(job: Job) -> bool:
    # A job that was given back has an error.
    return job.last_error is None and job.woken_at is None


async def requeue_dead(owner: Owner, job_id: str) -> None:
    found, locks = await _hold_dead(owner, job_id)
    if found.damage is not None:
        locks.release()
        raise found.damage
    change = transitions.requeue_dead(found.job, found.key, owner.clock.time_ms())
    await _move_dead(owner, change, locks)


async def purge_dead(owner: Owner, job_id: str) -> None:
    found, locks = await _hold_dead(owner, job_id)
    await _move_dead(owner, transitions.expire(found.job, JobStatus.DEAD, found.key), locks)


async def _hold_dead(owner: Owner, job_id: str) -> tuple[Resting, HeldLocks]:
    """A dead job, under the lock that retention takes to read and delete dead rows."""
    while True:
        dead = await _dead(owner, job_id)
        locks = await owner.lock([("finished", dead.job.queue)])
        try:
            found = await _dead(owner, job_id)
        except BaseException:
            locks.release()
            raise
        if found.job.queue == dead.job.queue:
            return found, locks
        locks.release()


async def _move_dead(owner: Owner, change: transitions.Change, locks: HeldLocks) -> None:
    transaction = Transaction()
    transaction.add(change)
    _begin_move(owner, transaction, change.job.id)
    transaction.finally_(locks.release)
    owner.landed_with(transaction, (change,))
    await owner.committer.submit(transaction, durable=True)


async def _dead(owner: Owner, job_id: str) -> Resting:
    found = await locate_job(owner, job_id)
    if isinstance(found, Resting) and found.status is JobStatus.DEAD:
        return found
    await _until_durable(owner, job_id)
    if found is None:
        raise JobNotFound(job_id)
    status = JobStatus.CLAIMED if isinstance(found, Lease) else found.status
    raise InvalidState(job_id, status.value, JobStatus.DEAD.value)


async def _until_durable(owner: Owner, job_id: str) -> None:
    """Wait until the index entry of a job, or its absence, would survive a crash.

    An answer that a job is gone, or in another state, must not be undone after it was given.
    """
    await owner.committer.until_durable(keys.index(job_id))


async def wait_for_completion(
    owner: Owner, job_id: str, timeout_ms: int, *, with_job: bool = True
) -> WaitOutcome:
    """Wait until a job is settled; on request without its record, whose payload may be large."""
    finished: asyncio.Future[transitions.Change | None] = owner.loop.create_future()
    owner.completions.setdefault(job_id, []).append(finished)
    try:
        # A claimed job exists, and its end will be reported.
        if owner.leases.get(job_id) is None:
            location = await locate(owner.engine, job_id)
            if location is None and not finished.done():
                await _until_durable(owner, job_id)
                return WaitOutcome(WaitStatus.NOT_FOUND)
            if location is not None and location.status in (JobStatus.DONE, JobStatus.DEAD):
                await _until_durable(owner, job_id)
                job = await get_job(owner.engine, owner.payloads, job_id) if with_job else None
                return WaitOutcome(WaitStatus.COMPLETED, job)
        if not await wait_until_done(finished, owner.clock, timeout_ms):
            return WaitOutcome(WaitStatus.TIMED_OUT)
    finally:
        waiting = owner.completions[job_id]
        waiting.remove(finished)
        if not waiting:
            del owner.completions[job_id]
    owner.check()
    # The settlement is applied; report it only when it is durable.
    await _until_durable(owner, job_id)
    change = finished.result()
    if change is None or change.counts.claimed >= 0:
        # Removed, not settled.
        return WaitOutcome(WaitStatus.NOT_FOUND)
    if change.status is None or not with_job:
        return WaitOutcome(WaitStatus.COMPLETED)
    return WaitOutcome(WaitStatus.COMPLETED, await get_job(owner.engine, owner.payloads, job_id))
