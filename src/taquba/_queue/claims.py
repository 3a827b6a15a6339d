"""Claims: taking jobs from the front of a queue and holding them under a lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from taquba._interface.claim import Claim, HeldClaim, lease_of
from taquba._memory.gate import alone_ms, first_suspect
from taquba._memory.leases import Lease
from taquba._memory.window import Window
from taquba._model import keys
from taquba._model.clock import wait_until_done
from taquba._model.codec import decode_row
from taquba._model.errors import (
    CancelRequested,
    ClaimLost,
    InvalidArgument,
    InvalidArgumentType,
    UnreadableJob,
)
from taquba._model.own_tasks import only_it_was_cancelled
from taquba._model.records import Job
from taquba._queue.owner import Owner, QueueState
from taquba._rules import transitions
from taquba._store.transaction import Transaction

_log: Final = logging.getLogger(__name__)

_REFILL_ROWS: Final = 2048
_REFILL_BYTES: Final = 8 * 1024 * 1024
_REFILL_BATCH: Final = 128

SETTLED: Final = "it was settled, or its lease expired and was taken back"
ABANDONED: Final = "the claim was abandoned by its caller"


class OwnedClaim(HeldClaim):
    """A claim in the owner's process."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Owner, lease: Lease) -> None:
        super().__init__(lease)
        self._owner = owner


async def claim_batch(
    owner: Owner,
    state: QueueState,
    limit: int,
    lease_ms: int,
    wait_ms: int | None,
    worker: str | None,
    *,
    patient: bool = True,
) -> list[OwnedClaim]:
    """Claim up to `limit` jobs for the process `worker`, waiting up to `wait_ms` for the first."""
    deadline = owner.clock.monotonic_ms() + (wait_ms or 0)
    while True:
        claims = await _claim_ready(owner, state, limit, lease_ms, worker, patient=patient)
        if claims or not wait_ms:
            return claims
        ready = state.waiters.join()
        woken = False
        try:
            woken = await wait_until_done(ready, owner.clock, deadline - owner.clock.monotonic_ms())
        finally:
            state.waiters.leave(ready, pass_on=not woken)
        if not woken:
            return []
        owner.check()


async def wait_until_ready(owner: Owner, states: list[QueueState], timeout_ms: int) -> bool:
    """Wait until one of the queues has a pending job, without claiming it."""
    deadline = owner.clock.monotonic_ms() + timeout_ms
    while True:
        while any(not state.window and not state.window.complete for state in states):
            for state in states:
                await look_ahead(owner, state)
        now = owner.clock.monotonic_ms()
        if any(owner.gate.lets_through(state, owner.about.id, now) for state in states):
            return True
        ready = [state.waiters.join(looking=True) for state in states]
        any_ready = asyncio.ensure_future(asyncio.wait(ready, return_when=asyncio.FIRST_COMPLETED))
        left = deadline - owner.clock.monotonic_ms()
        woken = False
        try:
            woken = await wait_until_done(any_ready, owner.clock, left)
        finally:
            any_ready.cancel()
            heard = False
            for state, future in zip(states, ready, strict=True):
                # A wakeup ends with its job: passed on without one, it would circulate among
                # waiting callers forever.
                has_jobs = bool(state.window) or not state.window.complete
                if woken and not heard and future.done():
                    # This call was notified of the job, and leaves it to a caller that claims it.
                    heard = True
                    state.waiters.leave(future, pass_on=False)
                    if has_jobs:
                        state.waiters.wake_claimer()
                else:
                    state.waiters.leave(future, pass_on=has_jobs)
        owner.check()
        if not woken:
            return False


async def look_ahead(owner: Owner, state: QueueState) -> None:
    """Load the first pending jobs; afterwards an empty window is an empty queue."""
    window = state.window
    try:
        while not window and not window.complete:
            await refill(owner, window, keys.queue_prefix(keys.PENDING, state.name))
            owner.check()
    except BaseException:
        # This caller may have been woken for a job that it does not take.
        state.waiters.wake()
        raise


async def claim_ahead(
    owner: Owner, state: QueueState, limit: int, lease_ms: int, worker: str | None
) -> list[OwnedClaim]:
    """Claim up to `limit` jobs for a worker loop, without waiting until that is visible.

    Every decision of the worker about them is written after the claim, so it is never seen without
    it. If the claim fails, the leases are lost before they can be settled.
    """
    await look_ahead(owner, state)
    if owner.committer.stalled or owner.gate.active or state.cautious:
        # Handlers must not start again and again on claims that are never written.
        return await _claim_ready(owner, state, limit, lease_ms, worker)
    transaction, leases = _take(owner, state, limit, lease_ms, None, worker)
    if not leases and owner.gate.active:
        # The first job is a suspect.
        return await _claim_ready(owner, state, limit, lease_ms, worker)
    if leases:
        submitted = owner.committer.submit(transaction, durable=False)
        if submitted.done():
            # The store is gone: this raises why.
            await submitted
        for lease in leases:
            lease.enter("held")
    return [OwnedClaim(owner, lease) for lease in leases]


async def _claim_ready(
    owner: Owner,
    state: QueueState,
    limit: int,
    lease_ms: int,
    worker: str | None,
    *,
    patient: bool = True,
) -> list[OwnedClaim]:
    """Claim the jobs that pass the gate, and wait until the claim is written."""
    gate = owner.gate
    durable = True
    while True:
        await look_ahead(owner, state)
        now = owner.clock.monotonic_ms()
        if gate.active and (waits := gate.begins_to_wait(state, now)) is not None:
            owner.clock.call_later(waits, owner.wake_claimers)
        admitted, ask_again = gate.admit(state, worker, now, patient=patient)
        if admitted == "nobody":
            if ask_again is not None:
                owner.clock.call_later(ask_again, owner.wake_claimers)
            return []
        if admitted in ("a suspect", "a suspect beside others"):
            alone = admitted == "a suspect"
            transaction, leases = _take_suspect(owner, state, lease_ms, worker, alone=alone)
            break
        before = None if admitted == "everybody" else first_suspect(state)
        set_aside = len(state.suspects)
        transaction, leases = _take(owner, state, limit, lease_ms, before, worker)
        if leases:
            durable = state.claims_durably(now)
            break
        met = len(state.suspects) > set_aside
        if not met and (not gate.active or (not state.window and state.window.complete)):
            return []
    try:
        await owner.committer.submit(transaction, durable=durable)
    except BaseException:
        _give_back_unclaimed(owner, transaction, leases)
        raise
    return [OwnedClaim(owner, lease) for lease in leases]


def _take(
    owner: Owner,
    state: QueueState,
    limit: int,
    lease_ms: int,
    before: bytes | None,
    worker: str | None,
) -> tuple[Transaction, list[Lease]]:
    """Decide on a claim of the first jobs in memory; the caller submits it at once.

    The jobs end at the key `before`, or at the first suspect.
    """
    window = state.window
    now = owner.clock.time_ms()
    expires_at = owner.clock.monotonic_ms() + lease_ms
    transaction = Transaction()
    taken: list[tuple[bytes, Job, Lease]] = []
    while window and len(taken) < limit:
        front = None if before is None else window.first_key()
        if before is not None and front is not None and front > before:
            break
        key, job = window.pop_front()
        if job.suspicion is not None:
            owner.gate.add(state, key, job)
            break
        change = transitions.claim(job, key, now, worker)
        transaction.add(change)
        lease = Lease(change.job, expires_at)
        owner.add_lease(lease)
        taken.append((key, job, lease))
    _follow(owner, window, transaction, taken)
    if window or not window.complete:
        state.waiters.wake_claimer()
    return transaction, [lease for _, _, lease in taken]


def _follow(
    owner: Owner,
    window: Window,
    transaction: Transaction,
    taken: Sequence[tuple[bytes, Job, Lease]],
) -> None:
    """Let memory follow a claim: rows as they were in `window`, their jobs, the new leases."""
    if owner.moves.watched:
        for _, job, _ in taken:
            owner.moves.touch(job.id)

    def applied() -> None:
        for key, _, lease in taken:
            window.forget(key)
            if lease.state == "claiming":
                lease.enter("held")

    def failed() -> None:
        for key, job, lease in taken:
            owner.leases.drop(lease)
            window.forget(key)
            owner.add_pending(key, job)

    transaction.on_applied.append(applied)
    transaction.on_failed.append(failed)


def _take_suspect(
    owner: Owner, state: QueueState, lease_ms: int, worker: str | None, *, alone: bool
) -> tuple[Transaction, list[Lease]]:
    """Decide on a claim of a suspect; where it runs alone, no other job passes."""
    gate = owner.gate
    key = first_suspect(state)
    assert key is not None
    job = gate.remove(state, key)
    assert job is not None
    transaction = Transaction()
    claim = transitions.claim_alone if alone else transitions.claim
    change = claim(job, key, owner.clock.time_ms(), worker)
    transaction.add(change)
    lease = Lease(change.job, owner.clock.monotonic_ms() + lease_ms)
    owner.add_lease(lease)
    _follow(owner, state.window, transaction, [(key, job, lease)])
    if alone:
        gate.enter(lease)
        let_others_in_later(owner, lease)
    return transaction, [lease]


def let_others_in_later(owner: Owner, lease: Lease) -> None:
    """Let others run beside a suspect once it has run alone for long enough."""
    owner.clock.call_later(alone_ms(lease.job), lambda: _let_others_in(owner, lease))


def _let_others_in(owner: Owner, lease: Lease) -> None:
    """Record that a suspect ran alone for long enough; then others may run beside it."""
    if not owner.gate.is_alone(lease) or owner.failure is not None:
        return
    if lease.state != "held":
        let_others_in_later(owner, lease)
        return
    transaction = Transaction()
    change = transitions.join(lease.job)
    transaction.add(change)
    before, lease.job = lease.job, change.job

    def failed() -> None:
        lease.job = before

    def written(answer: asyncio.Future[None]) -> None:
        if answer.exception() is not None:
            let_others_in_later(owner, lease)
            return
        owner.gate.open(lease.job.worker)
        owner.wake_claimers()

    transaction.on_failed.append(failed)
    owner.committer.submit(transaction, durable=True).add_done_callback(written)


def _give_back_unclaimed(owner: Owner, transaction: Transaction, leases: list[Lease]) -> None:
    """Give back leases whose caller is gone, or got an error: nobody will settle them."""

    def give_back() -> None:
        release(owner, leases, ABANDONED)

    if leases[0].state == "held":
        give_back()
    elif leases[0].state == "claiming":
        transaction.on_applied.append(give_back)


def release(owner: Owner, leases: list[Lease], why: str) -> asyncio.Future[None] | None:
    """Put held jobs back without spending their attempt; the future is done when it is durable."""
    now = owner.clock.time_ms()
    transaction = Transaction()
    for lease in leases:
        if lease.state == "held":
            end_lease(owner, transaction, lease, transitions.interrupt(lease.job, now, why))
    if not transaction.ops:
        return None
    return owner.committer.submit(transaction, durable=True)


def lose_process(owner: Owner, lease: Lease, why: str) -> asyncio.Future[None] | None:
    """The process or executor of a held job died; see `transitions.lose_process`."""
    if lease.state != "held":
        return None
    policy = owner.queue(lease.job.queue).policy
    change = transitions.lose_process(
        lease.job, owner.clock.time_ms(), why, policy, owner.random.random()
    )
    transaction = Transaction()
    end_lease(owner, transaction, lease, change)
    return owner.committer.submit(transaction, durable=True)


def end_lease(
    owner: Owner, transaction: Transaction, lease: Lease, change: transitions.Change
) -> None:
    """End a held lease: `change` is applied with `transaction`, or the lease continues."""
    transaction.add(change)
    lease.state = "settling"
    if owner.moves.watched:
        owner.moves.touch(lease.job.id)

    def applied() -> None:
        owner.leases.drop(lease)
        owner.landed((change,))

    transaction.on_applied.append(applied)
    transaction.on_failed.append(lambda: lease.enter("held"))


async def refill(owner: Owner, window: Window, prefix: bytes) -> None:
    """Read the next stretch of a space into its window; callers share one scan."""
    while True:
        scan = owner.refills.get(window)
        if scan is None or scan.done():
            scan = owner.refills[window] = asyncio.ensure_future(_scan_into(owner, window, prefix))
        try:
            return await asyncio.shield(scan)
        except asyncio.CancelledError:
            if not only_it_was_cancelled(scan):
                raise


async def _scan_into(owner: Owner, window: Window, prefix: bytes) -> None:
    after = window.begin_refill()
    start = after or prefix
    rows: list[tuple[bytes, Job]] = []
    size = 0
    last = start
    more = False
    try:
        scan = owner.engine.scan(
            start, keys.prefix_end(prefix), after=bool(after), batch=_REFILL_BATCH
        )
        async for found in scan:
            for key, value in found:
                last = key
                size += len(value)
                try:
                    rows.append((key, decode_row(key, value)))
                except UnreadableJob as error:
                    # It is left where it is for inspection; it does not hold up the others.
                    _log.warning("%s", error)
            if len(rows) >= _REFILL_ROWS or size >= _REFILL_BYTES:
                more = True
                break
        # The scan may have seen a commit that memory has not followed yet; the other rows of that
        # commit, below the horizon, enter the window only then.
        await owner.committer.barrier()
    except BaseException:
        window.abandon_refill()
        raise
    finally:
        # At once, not when the task is reported done: a caller in between must start a new scan.
        owner.refills.pop(window, None)
    window.end_refill(rows, last if more else None)


def _lease_here(owner: Owner, claim: Claim) -> Lease:
    """The lease behind a claim that this queue handed out."""
    if not isinstance(claim, OwnedClaim):
        raise InvalidArgumentType(
            f"only a Claim can be settled or renewed, not {type(claim).__name__}: "
            "use the result of claim() or claim_batch()"
        )
    if claim._owner is not owner:  # pyright: ignore[reportPrivateUsage] - opaque to others
        raise InvalidArgument(
            f"the claim on job {claim.id!r} belongs to another handle on a store; "
            "settle it with the queue that handed it out"
        )
    return lease_of(claim)


def lease_in_force(owner: Owner, claim: Claim) -> Lease | None:
    """The lease of a claim, unless it is over."""
    lease = _lease_here(owner, claim)
    return lease if owner.leases.holds(lease) else None


def held_lease(owner: Owner, claim: Claim) -> Lease:
    """The lease of a claim that may be settled or renewed, or the error that says why not."""
    return still_held(_lease_here(owner, claim))


def still_held(lease: Lease) -> Lease:
    """A lease under which its job may be settled or renewed, or the error that says why not."""
    if lease.state == "settling":
        raise ClaimLost(lease.job.id, "a settlement of it is under way")
    if lease.state != "held":
        raise ClaimLost(lease.job.id, SETTLED)
    return lease


def renew(owner: Owner, lease: Lease, extension_ms: int) -> None:
    """Set the end of a held lease to `extension_ms` from now."""
    lease.expires_at = owner.clock.monotonic_ms() + extension_ms
    if lease.expires_at < owner.reaper_due:
        owner.reaper_alarm.ring()
    if owner.telemetry is not None:
        owner.telemetry.lease_renewed(lease.job.queue)


def keep_alive(owner: Owner, lease: Lease, extension_ms: int) -> None:
    """Renew on behalf of a worker loop, even for a job that was asked to cancel."""
    expires_at = owner.clock.monotonic_ms() + extension_ms
    if lease.state == "held" and lease.expires_at < expires_at:
        renew(owner, lease, extension_ms)


def renew_for_caller(owner: Owner, claim: Claim, extension_ms: int) -> datetime:
    lease = held_lease(owner, claim)
    if lease.job.cancel_requested:
        raise CancelRequested(claim.id)
    renew(owner, lease, extension_ms)
    return expiry(owner, lease)


def expiry(owner: Owner, lease: Lease) -> datetime:
    """When a lease expires, in wall time as of now."""
    remaining = lease.expires_at - owner.clock.monotonic_ms()
    return owner.clock.now() + timedelta(milliseconds=remaining)
