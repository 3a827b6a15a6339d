"""Settling a claim: ack, nack, dead-letter, with effects in the same commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taquba._interface.claim import Claim
from taquba._memory.leases import Lease
from taquba._model import validate
from taquba._model.clock import to_ms
from taquba._model.errors import CancelRequested, ClaimLost
from taquba._model.options import SettlementEffects
from taquba._model.records import AttemptOutcome, EnqueueResult, Job, JobStatus, NackOutcome
from taquba._queue import listings
from taquba._queue.claims import end_lease, held_lease
from taquba._queue.enqueueing import stage_effects
from taquba._queue.owner import Owner
from taquba._rules import transitions
from taquba._rules.transitions import Change
from taquba._store.transaction import Transaction


async def ack(owner: Owner, claim: Claim, effects: SettlementEffects | None) -> list[EnqueueResult]:
    lease = held_lease(owner, claim)
    policy = owner.queue(claim.queue).policy
    now = owner.clock.time_ms
    return await _settle(owner, lease, effects, lambda job: transitions.ack(job, now(), policy))


async def ack_all(owner: Owner, leases: Iterable[Lease], on_failed: Callable[[], None]) -> None:
    """Acknowledge the jobs of held leases, together."""
    transaction = Transaction()
    now = owner.clock.time_ms()
    for lease in leases:
        policy = owner.queue(lease.job.queue).policy
        end_lease(owner, transaction, lease, transitions.ack(lease.job, now, policy))
    transaction.on_failed.append(on_failed)
    await owner.committer.submit(transaction, durable=True)


async def nack(
    owner: Owner,
    claim: Claim,
    error: str,
    effects: SettlementEffects | None,
    delay_ms: int | None = None,
) -> NackOutcome:
    """Retry after the backoff (or `delay_ms`), or dead-letter with effects."""
    lease = held_lease(owner, claim)
    error = validate.error_text(error, "error")
    if effects is not None:
        validate.instance(effects, SettlementEffects, "effects")
    policy = owner.queue(claim.queue).policy
    now = owner.clock.time_ms()
    if transitions.is_last_attempt(lease.job):
        return NackOutcome(False, await dead_letter(owner, claim, error, effects))
    if delay_ms is None:
        change = transitions.nack(lease.job, now, error, policy, owner.random.random())
    else:
        change = transitions.retry(lease.job, now, error, delay_ms)
    await _settle(owner, lease, None, lambda _: change)
    return NackOutcome(True, [])


async def snooze(owner: Owner, claim: Claim, reason: str, delay_ms: int) -> None:
    """Put the job off without spending its attempt."""
    lease = held_lease(owner, claim)
    reason = validate.error_text(reason, "reason")
    change = transitions.snooze(lease.job, owner.clock.time_ms(), reason, delay_ms)
    await _settle(owner, lease, None, lambda _: change)


async def payload_missing(owner: Owner, claim: Claim, reason: str) -> bool:
    """The payload's object was not found; returns whether the job becomes a dead letter."""
    lease = held_lease(owner, claim)
    looks: list[int] = []
    for attempt in await listings.attempt_history(owner.engine, claim.id):
        if attempt.outcome is AttemptOutcome.PAYLOAD_MISSING:
            looks.append(to_ms(attempt.recorded_at))
        else:
            looks.clear()
    lease = held_lease(owner, claim)
    change = transitions.payload_missing(lease.job, owner.clock.time_ms(), reason, looks)
    await _settle(owner, lease, None, lambda _: change)
    return change.status is JobStatus.DEAD


async def dead_letter(
    owner: Owner, claim: Claim, reason: str, effects: SettlementEffects | None
) -> list[EnqueueResult]:
    lease = held_lease(owner, claim)
    reason = validate.error_text(reason, "reason")
    now = owner.clock.time_ms
    return await _settle(
        owner, lease, effects, lambda job: transitions.dead_letter(job, now(), reason)
    )


async def _settle(
    owner: Owner,
    lease: Lease,
    effects: SettlementEffects | None,
    decide: Callable[[Job], Change],
) -> list[EnqueueResult]:
    transaction = Transaction()
    results: list[EnqueueResult] = []
    if effects is not None:
        validate.instance(effects, SettlementEffects, "effects")
        # Nobody else may settle the job, or take it back, while dedup keys are being read.
        lease.state = "settling"
        try:
            results = await stage_effects(owner, transaction, effects)
        except BaseException:
            if owner.leases.holds(lease):
                lease.enter("held")
            raise
        if not owner.leases.holds(lease):
            # The store hung, and the claim itself was withdrawn meanwhile.
            transaction.abandon()
            raise ClaimLost(lease.job.id, "the claim could not be written")
        if effects.unless_cancelled and lease.job.cancel_requested:
            transaction.abandon()
            lease.enter("held")
            raise CancelRequested(lease.job.id)
    end_lease(owner, transaction, lease, decide(lease.job))
    await owner.committer.submit(transaction, durable=True)
    return results
