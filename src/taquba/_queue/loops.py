"""Background loops: scheduler, reaper, retention, heartbeat, and the watch on the engine.

Each does one round, finds out when the next is due, and sleeps on its alarm until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from taquba._model import keys
from taquba._model.codec import decode_row
from taquba._model.ending import ends_program
from taquba._model.errors import StoreError, TaqubaError, UnreadableJob
from taquba._model.log_fields import about_queue
from taquba._model.records import JobStatus
from taquba._queue.claims import end_lease, refill
from taquba._queue.owner import NOT_DUE, Owner, QueueState
from taquba._queue.payload_writes import ORPHAN_AGE_MS, sweep_orphans
from taquba._rules import transitions
from taquba._store.transaction import Transaction

_log: Final = logging.getLogger(__name__)

_ROUND: Final = 512
"""Jobs moved by one commit of a loop."""

_LATE_MS: Final = 250
"""A reaper that finds a lease so long after its end has not been awake at that time."""

_TO_HEAR_MS: Final = 1000
"""How long such a lease lasts then, for its holder to be heard."""

_TURNS: Final = 10
"""Turns of the event loop in which what lies in a socket is read and taken in."""

_ENGINE_WATCH_SECONDS: Final = 1.0
_RETRY_MS: Final = 1000
_ORPHAN_SWEEP_MS: Final = 24 * 3600 * 1000
_REAPER_GAP_MS: Final = 50
_RETENTION_SPACES: Final = {JobStatus.DONE: keys.DONE, JobStatus.DEAD: keys.DEAD}


async def promote_due(owner: Owner) -> int:
    """Move every scheduled job whose time has come to pending; returns how many this call moved.

    When it returns, those that the scheduler has begun to move are pending as well.
    """
    promoted = 0
    while True:
        promoted += await _promote(owner)
        await owner.committer.barrier()
        if _next_scheduled(owner) > owner.clock.time_ms():
            return promoted


async def bring_in(owner: Owner) -> None:
    """Make every job of the store pending that may run now, those in the inbox as well."""
    if owner.take_inbox is not None:
        await owner.take_inbox()
    await promote_due(owner)


def _next_scheduled(owner: Owner) -> int:
    """When the first scheduled job is due, in wall ms."""
    first = owner.scheduled.first_key()
    return NOT_DUE if first is None else keys.scheduled_run_at(first)


async def _promote(owner: Owner) -> int:
    """Move what is due and what nobody else is moving."""
    promoted = 0
    window = owner.scheduled
    while True:
        if not window and not window.complete:
            await refill(owner, window, keys.SCHEDULED)
        now = owner.clock.time_ms()
        transaction = Transaction()
        changes: list[transitions.Change] = []
        while len(changes) < _ROUND:
            first = window.first_key()
            if first is None or keys.scheduled_run_at(first) > now:
                break
            key, job = window.pop_front()
            change = transitions.promote(job, key)
            transaction.add(change)
            changes.append(change)
            owner.moves.begin(job.id)
            transaction.finally_(partial(owner.moves.end, job.id))
            transaction.finally_(partial(window.forget, key))
            transaction.on_failed.append(partial(owner.add_scheduled, key, job))
        if not changes:
            if window or window.complete:
                return promoted
            continue
        owner.landed_with(transaction, changes)
        await owner.committer.submit(transaction, durable=False)
        promoted += len(changes)


async def run_scheduler(owner: Owner, recheck_ms: int) -> None:
    async def round_() -> None:
        await _promote(owner)
        owner.scheduler_due = _next_scheduled(owner)

    while True:
        delay = await _guarded(round_, "scheduler")
        due = owner.scheduler_due if delay is None else owner.clock.time_ms() + delay
        timer = None
        if due != NOT_DUE:
            timer = partial(owner.clock.call_at, due, recheck_ms)
        await owner.scheduler_alarm.sleep(timer)


async def hear_what_came() -> None:
    """Take in what other processes have said, before they are judged by their silence.

    If this process did nothing for a while, what they said meanwhile lies in its sockets.
    """
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def reap(owner: Owner, *, on_time: bool = False) -> Counter[str]:
    """Take back every job whose lease expired; returns how many of each queue.

    Args:
        owner: The owner of the store.
        on_time: Whether the caller looks whenever a lease expires, so that one which expired long
            ago shows that this process did nothing for a while.
    """
    expired = owner.leases.expired(owner.clock.monotonic_ms())
    if any(lease.holder is not None for lease in expired):
        await hear_what_came()
    reaped = Counter[str]()
    for start in range(0, len(expired), _ROUND):
        transaction = Transaction()
        now = owner.clock.time_ms()
        monotonic = owner.clock.monotonic_ms()
        for lease in expired[start : start + _ROUND]:
            # It may have been settled or renewed while earlier ones were written.
            if lease.state != "held" or lease.expires_at > monotonic:
                continue
            late = monotonic > lease.expires_at + _LATE_MS
            if on_time and late and lease.holder is not None:
                # Renewals lie in its sockets, or the job has not even left it.
                lease.expires_at = monotonic + _TO_HEAR_MS
                continue
            reaped[lease.job.queue] += 1
            if lease.holder is None or lease.holder.expires(lease):
                change = transitions.take_back(lease.job, now)
            else:
                change = transitions.interrupt(lease.job, now, "its worker hung before it began")
            end_lease(owner, transaction, lease, change)
        await owner.committer.submit(transaction, durable=False)
    return reaped


async def run_reaper(owner: Owner, interval_ms: int) -> None:
    # Leases that expire one after the other share a pass.
    gap_ms = min(interval_ms, _REAPER_GAP_MS)

    async def round_() -> None:
        for name, count in (await reap(owner, on_time=True)).items():
            _log.warning(
                "took back %d jobs of queue %r whose lease expired",
                count,
                name,
                extra=about_queue(name),
            )
        first = owner.leases.next_expiry()
        now = owner.clock.monotonic_ms()
        owner.reaper_due = NOT_DUE if first is None else max(first, now + gap_ms)

    while True:
        delay = await _guarded(round_, "reaper")
        timer = None
        if delay is not None:
            timer = partial(owner.clock.call_later, delay)
        elif owner.reaper_due != NOT_DUE:
            timer = partial(
                owner.clock.call_later, max(0, owner.reaper_due - owner.clock.monotonic_ms())
            )
        await owner.reaper_alarm.sleep(timer)


async def sweep(owner: Owner) -> int:
    """Remove every done and dead job whose retention is over; returns how many."""
    removed = 0
    for state in list(owner.queues.values()):
        for status in _RETENTION_SPACES:
            removed += await _sweep_queue(owner, state, status)
    return removed


async def _sweep_queue(owner: Owner, state: QueueState, status: JobStatus) -> int:
    retention = state.retention_ms(status)
    due, state.sweep_due[status] = state.sweep_due[status], NOT_DUE
    if retention is None:
        return 0
    try:
        return await _sweep_rows(owner, state, status, retention)
    except BaseException:
        # The next round must find the rows that this one did not reach.
        owner.sweep_by(state, status, due)
        raise


async def _sweep_rows(owner: Owner, state: QueueState, status: JobStatus, retention: int) -> int:
    prefix = keys.queue_prefix(_RETENTION_SPACES[status], state.name)
    start, after = prefix, False
    removed = 0
    while True:
        # Requeueing a dead job takes the same lock, so no row read here comes to life meanwhile.
        locks = await owner.lock([("finished", state.name)])
        transaction = Transaction()
        transaction.finally_(locks.release)
        young = None
        expired = 0
        try:
            end = keys.prefix_end(prefix)
            rows = await owner.engine.read_range(start, end, _ROUND, after=after)
            now = owner.clock.time_ms()
            for key, value in rows:
                try:
                    job = decode_row(key, value)
                except UnreadableJob as error:
                    # The end of its retention is not known; it is skipped.
                    _log.warning("%s", error)
                    start, after = key, True
                    continue
                due = (job.finished_at or 0) + retention
                if due > now:
                    young = due
                    break
                transaction.add(transitions.expire(job, status, key))
                expired += 1
        except BaseException:
            transaction.abandon()
            raise
        await owner.committer.submit(transaction, durable=False)
        removed += expired
        if young is not None:
            owner.sweep_by(state, status, young)
        if young is not None or len(rows) < _ROUND:
            return removed


async def run_retention(owner: Owner, recheck_ms: int) -> None:
    async def round_() -> None:
        now = owner.clock.time_ms()
        # Awake: no deadline has to ring, all are looked at before the next sleep.
        owner.retention_due = 0
        for state in list(owner.queues.values()):
            for status, due in list(state.sweep_due.items()):
                if due <= now:
                    await _sweep_queue(owner, state, status)
        owner.retention_due = min(
            (due for state in owner.queues.values() for due in state.sweep_due.values()),
            default=NOT_DUE,
        )

    while True:
        delay = await _guarded(round_, "retention")
        due = owner.retention_due if delay is None else owner.clock.time_ms() + delay
        timer = None if due == NOT_DUE else partial(owner.clock.call_at, due, recheck_ms)
        await owner.retention_alarm.sleep(timer)


async def run_orphan_sweep(owner: Owner) -> None:
    """Remove payload objects that a crash left behind.

    Objects that the last owner left just before its end are old enough after a while; later ones,
    left by failures, are rare.
    """
    wait_ms = ORPHAN_AGE_MS
    while True:
        try:
            await sweep_orphans(owner)
        except StoreError as error:
            # The queue works without the sweep: a later one finds the orphans.
            _log.warning("the sweep for orphaned payload objects failed: %s", error)
        await owner.orphan_alarm.sleep(partial(owner.clock.call_later, wait_ms + 1))
        wait_ms = _ORPHAN_SWEEP_MS


async def run_heartbeat(owner: Owner, interval_ms: int) -> None:
    """Write the owner's time, so that readers can see whether it lives."""
    beat = asyncio.Event()
    while True:
        transaction = Transaction()
        transaction.put(keys.HEARTBEAT, str(owner.clock.time_ms()).encode())
        try:
            await owner.committer.submit(transaction, durable=True)
        except StoreError as error:
            if error.permanent:
                raise
            _log.warning("could not write the heartbeat: %s", error)
        beat.clear()
        timer = owner.clock.call_later(interval_ms, beat.set)
        try:
            await beat.wait()
        finally:
            timer.cancel()


async def watch_engine(owner: Owner) -> None:
    """Notice, even while nothing is written, that another owner fenced this one; tidy up."""
    while True:
        await asyncio.sleep(_ENGINE_WATCH_SECONDS)
        failure = owner.engine.failure()
        if failure is not None:
            owner.committer.fail(failure)
            return
        await owner.engine.tidy()


async def _guarded(round_: Callable[[], Awaitable[None]], name: str) -> int | None:
    """Run one round; a transient error postpones it, and the delay in ms is returned."""
    try:
        await round_()
    except TaqubaError as error:
        if error.permanent:
            raise
        _log.warning("the %s could not finish its round: %s", name, error)
        return _RETRY_MS
    return None


async def until_failure(owner: Owner, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop; once the store can no longer be written, it ends, and its queue says why."""
    try:
        await loop()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        # Without its loops a queue would only look alive: it is better to end it.
        if owner.failure is None:
            owner.committer.lose(error)
        if ends_program(error):
            raise
