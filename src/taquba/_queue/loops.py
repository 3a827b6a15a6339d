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

from taquba._core import transitions
from taquba._model import keys
from taquba._model.codec import decode_row
from taquba._model.ending import ends_program
from taquba._model.errors import StoreError, TaqubaError, UnreadableJob
from taquba._model.log_fields import about_queue
from taquba._model.records import JobStatus
from taquba._queue.claims import end_lease, refill
from taquba._queue.core import NOT_DUE, Core, QueueState
from taquba._queue.offloading import ORPHAN_AGE_MS, sweep_orphans
from taquba._store.transaction import Transaction

_log: Final = logging.getLogger(__name__)

_ROUND: Final = 512
"""Jobs moved by one commit of a loop."""

_ENGINE_WATCH_SECONDS: Final = 1.0
_RETRY_MS: Final = 1000
_ORPHAN_SWEEP_MS: Final = 24 * 3600 * 1000
_REAPER_GAP_MS: Final = 50
_RETENTION_SPACES: Final = {JobStatus.done: keys.DONE, JobStatus.dead: keys.DEAD}


async def promote_due(core: Core) -> int:
    """Move every scheduled job whose time has come to pending; returns how many."""
    promoted = 0
    window = core.scheduled
    while True:
        if not window and not window.complete:
            await refill(core, window, keys.SCHEDULED)
        now = core.clock.time_ms()
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
            core.moves.begin(job.id)
            transaction.finally_(partial(core.moves.end, job.id))
            transaction.finally_(partial(window.forget, key))
            transaction.on_failed.append(partial(core.add_scheduled, key, job))
        if not changes:
            if window or window.complete:
                return promoted
            continue
        core.landed_with(transaction, changes)
        await core.committer.submit(transaction, durable=False)
        promoted += len(changes)


async def run_scheduler(core: Core, recheck_ms: int) -> None:
    async def round_() -> None:
        await promote_due(core)
        first = core.scheduled.first_key()
        core.scheduler_due = NOT_DUE if first is None else keys.scheduled_run_at(first)

    while True:
        delay = await _guarded(round_, "scheduler")
        due = core.scheduler_due if delay is None else core.clock.time_ms() + delay
        timer = None
        if due != NOT_DUE:
            timer = partial(core.clock.call_at, due, recheck_ms)
        await core.scheduler_alarm.sleep(timer)


async def reap(core: Core) -> Counter[str]:
    """Take back every job whose lease ran out; returns how many of each queue."""
    expired = core.leases.expired(core.clock.monotonic_ms())
    reaped = Counter[str]()
    for start in range(0, len(expired), _ROUND):
        transaction = Transaction()
        now = core.clock.time_ms()
        monotonic = core.clock.monotonic_ms()
        for lease in expired[start : start + _ROUND]:
            # It may have been settled or renewed while earlier ones were written.
            if lease.state != "held" or lease.expires_at > monotonic:
                continue
            reaped[lease.job.queue] += 1
            change = transitions.take_back(lease.job, now)
            end_lease(core, transaction, lease, change)
        await core.committer.submit(transaction, durable=False)
    return reaped


async def run_reaper(core: Core, interval_ms: int) -> None:
    # Leases that run out one after the other share a pass.
    gap_ms = min(interval_ms, _REAPER_GAP_MS)

    async def round_() -> None:
        for name, count in (await reap(core)).items():
            _log.warning(
                "took back %d jobs of queue %r whose lease expired",
                count,
                name,
                extra=about_queue(name),
            )
        first = core.leases.next_expiry()
        now = core.clock.monotonic_ms()
        core.reaper_due = NOT_DUE if first is None else max(first, now + gap_ms)

    while True:
        delay = await _guarded(round_, "reaper")
        timer = None
        if delay is not None:
            timer = partial(core.clock.call_later, delay)
        elif core.reaper_due != NOT_DUE:
            timer = partial(
                core.clock.call_later, max(0, core.reaper_due - core.clock.monotonic_ms())
            )
        await core.reaper_alarm.sleep(timer)


async def sweep(core: Core) -> int:
    """Remove every done and dead job whose retention is over; returns how many."""
    removed = 0
    for state in list(core.queues.values()):
        for status in _RETENTION_SPACES:
            removed += await _sweep_queue(core, state, status)
    return removed


async def _sweep_queue(core: Core, state: QueueState, status: JobStatus) -> int:
    retention = state.retention_ms(status)
    due, state.sweep_due[status] = state.sweep_due[status], NOT_DUE
    if retention is None:
        return 0
    try:
        return await _sweep_rows(core, state, status, retention)
    except BaseException:
        # The next round has to find what this one did not get to.
        core.sweep_by(state, status, due)
        raise


async def _sweep_rows(core: Core, state: QueueState, status: JobStatus, retention: int) -> int:
    prefix = keys.queue_prefix(_RETENTION_SPACES[status], state.name)
    start, after = prefix, False
    removed = 0
    while True:
        # Requeueing a dead job takes the same lock, so no row read here comes to life meanwhile.
        locks = await core.lock([("finished", state.name)])
        transaction = Transaction()
        transaction.finally_(locks.release)
        young = None
        expired = 0
        try:
            end = keys.prefix_end(prefix)
            rows = await core.engine.read_range(start, end, _ROUND, after=after)
            now = core.clock.time_ms()
            for key, value in rows:
                try:
                    job = decode_row(key, value)
                except UnreadableJob as error:
                    # Nothing tells when its retention is over; it is passed over.
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
        await core.committer.submit(transaction, durable=False)
        removed += expired
        if young is not None:
            core.sweep_by(state, status, young)
        if young is not None or len(rows) < _ROUND:
            return removed


async def run_retention(core: Core, recheck_ms: int) -> None:
    async def round_() -> None:
        now = core.clock.time_ms()
        # Awake: no deadline has to ring, all are looked at before the next sleep.
        core.retention_due = 0
        for state in list(core.queues.values()):
            for status, due in list(state.sweep_due.items()):
                if due <= now:
                    await _sweep_queue(core, state, status)
        core.retention_due = min(
            (due for state in core.queues.values() for due in state.sweep_due.values()),
            default=NOT_DUE,
        )

    while True:
        delay = await _guarded(round_, "retention")
        due = core.retention_due if delay is None else core.clock.time_ms() + delay
        timer = None if due == NOT_DUE else partial(core.clock.call_at, due, recheck_ms)
        await core.retention_alarm.sleep(timer)


async def run_orphan_sweep(core: Core) -> None:
    """Remove payload objects that a crash left behind.

    What the last owner left just before its end is old enough after a while; what is left later,
    by failures, is rare.
    """
    wait_ms = ORPHAN_AGE_MS
    while True:
        try:
            await sweep_orphans(core)
        except StoreError as error:
            # The queue works without: what lies there is found by a later sweep.
            _log.warning("the sweep for orphaned payload objects failed: %s", error)
        await core.orphan_alarm.sleep(partial(core.clock.call_later, wait_ms + 1))
        wait_ms = _ORPHAN_SWEEP_MS


async def run_heartbeat(core: Core, interval_ms: int) -> None:
    """Write the owner's time, so that readers can tell whether it lives."""
    beat = asyncio.Event()
    while True:
        transaction = Transaction()
        transaction.put(keys.HEARTBEAT, str(core.clock.time_ms()).encode())
        try:
            await core.committer.submit(transaction, durable=True)
        except StoreError as error:
            if error.permanent:
                raise
            _log.warning("could not write the heartbeat: %s", error)
        beat.clear()
        timer = core.clock.call_later(interval_ms, beat.set)
        try:
            await beat.wait()
        finally:
            timer.cancel()


async def watch_engine(core: Core) -> None:
    """Notice, also while nothing is written, that another owner fenced this one; tidy up."""
    while True:
        await asyncio.sleep(_ENGINE_WATCH_SECONDS)
        failure = core.engine.failure()
        if failure is not None:
            core.committer.fail(failure)
            return
        await core.engine.tidy()


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


async def until_failure(core: Core, loop: Awaitable[None]) -> None:
    """Run a loop; once the store can be written no more it ends quietly, its queue says why."""
    try:
        await loop
    except asyncio.CancelledError:
        # Nothing, where it was the queue that closed.
        core.forsaken()
        raise
    except BaseException as error:
        # Without its loops a queue would look alive and not be: better it ends.
        if core.failure is None:
            core.committer.lose(error)
        if ends_program(error):
            raise
