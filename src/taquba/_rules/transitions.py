"""Every state change of a job, as a pure function of record, event, time and policy.

Each returns a `Change`: the job afterwards, its state, the rows to write, and the change of the
queue's counters. Nothing here reads, waits or uses a clock; no other code decides a job's next
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from taquba._model import keys
from taquba._model.codec import (
    encode_attempt,
    encode_job,
    encode_live_location,
    encode_location,
)
from taquba._model.keys import Op
from taquba._model.options import Policy
from taquba._model.records import (
    CLAIMED,
    DEAD,
    DONE,
    PENDING,
    SCHEDULED,
    AttemptOutcome,
    Counters,
    Job,
    JobStatus,
    Suspicion,
)

Event = Literal[
    "enqueued",
    "claimed",
    "completed",
    "retried",
    "snoozed",
    "dead_lettered",
    "lease_expired",
    "interrupted",
    "promoted",
    "woken",
    "cancelled",
    "asked_to_cancel",
    "joined",
    "requeued",
    "expired",
]
"""What a transition did to its job. A job whose lease expired, or whose process ended, was given
back, or dead-lettered where that was the last attempt."""


class Change(NamedTuple):
    """The result of a transition."""

    job: Job
    status: JobStatus | None
    """The state of the job now; None if it left the store."""
    key: bytes
    """Key of the job's row: the one it has now, or the one it had when it left."""
    ops: list[Op]
    counts: Counters
    event: Event


_ENTERS: Final = {
    PENDING: Counters(pending=1),
    SCHEDULED: Counters(scheduled=1),
    CLAIMED: Counters(claimed=1),
}
_CLAIM: Final = Counters(pending=-1, claimed=1)
_ACK: Final = Counters(claimed=-1, done=1)
_NO_COUNT: Final = Counters()

_ENDS_AS: Final[dict[AttemptOutcome, Event]] = {
    AttemptOutcome.RETRIED: "retried",
    AttemptOutcome.DEAD_LETTERED: "dead_lettered",
    AttemptOutcome.LEASE_EXPIRED: "lease_expired",
    AttemptOutcome.INTERRUPTED: "interrupted",
    AttemptOutcome.PAYLOAD_MISSING: "snoozed",
}

_LOOK_PAUSES_MS: Final = (2_000, 15_000, 120_000, 600_000)
"""Waits before the next looks for a payload that was not found. After one look more than these it
is missing: five looks, over at least 12 minutes."""

_LOOKS_APART_MS: Final = 3600 * 1000
"""Looks further apart than this do not add up: it may have been found in between."""


def enqueue(job: Job) -> Change:
    """A new job: pending, or scheduled when it has a `run_at`."""
    placed = _place(job, job.run_at, "enqueued")
    if job.holds_dedup_key and job.dedup_key is not None:
        placed.ops.append((keys.dedup(job.queue, job.dedup_key), job.id.encode()))
    return placed


def claim(job: Job, key: bytes, now: int, worker: str | None) -> Change:
    """Pending to claimed; starts an attempt and frees the dedup key.

    Args:
        job: The job.
        key: The key of its pending row.
        now: Wall ms.
        worker: Id of the process that is to run it, if that is known.
    """
    # By position: `_replace` takes three times as long, and every delivery passes here.
    attempts, run_at, dedup_key = job.attempts + 1, job.run_at, job.dedup_key
    claimed = Job(*(*job[:7], attempts, run_at, dedup_key, False, now, *job[12:20], worker))
    claimed_key = keys.claimed(job.queue, job.id)
    ops: list[Op] = [(key, None), (claimed_key, encode_job(claimed))]
    _free_dedup_key(job, ops)
    return Change(claimed, CLAIMED, claimed_key, ops, _CLAIM, "claimed")


def claim_alone(job: Job, key: bytes, now: int, worker: str | None) -> Change:
    """A suspect's claim, with nothing beside it: if its process ends now, the attempt counts."""
    suspicion = job.suspicion or Suspicion()
    return claim(job._replace(suspicion=suspicion._replace(alone=True)), key, now, worker)


def join(job: Job) -> Change:
    """A suspect ran alone for long enough: another job may end its process from now on."""
    joined = _not_alone(job)
    key = keys.claimed(job.queue, job.id)
    ops: list[Op] = [(key, encode_job(joined))]
    return Change(joined, CLAIMED, key, ops, _NO_COUNT, "joined")


def ack(job: Job, now: int, policy: Policy) -> Change:
    """Claimed to done; kept only if the queue keeps done jobs."""
    key = keys.claimed(job.queue, job.id)
    ops: list[Op] = [(key, None)]
    if policy.keep_done_ms is None:
        _forget(job, ops)
        return Change(job, None, key, ops, _ACK, "completed")
    done = _record_attempt(job, now, AttemptOutcome.COMPLETED, None, ops)
    done = done._replace(finished_at=now, suspicion=None)
    key = _put_finished(done, DONE, ops)
    return Change(done, DONE, key, ops, _ACK, "completed")


def is_last_attempt(job: Job) -> bool:
    """Whether a failure of the running attempt dead-letters the job."""
    return job.attempts >= job.max_attempts


def nack(job: Job, now: int, error: str, policy: Policy, chance: float) -> Change:
    """A failed attempt: retried after its backoff, or dead-lettered when it was the last.

    `chance`, 0 to 1, is the share of the jitter that this retry gets.
    """
    if is_last_attempt(job):
        return dead_letter(job, now, error)
    return retry(job, now, error, backoff_ms(job.attempts, policy, chance))


def backoff_ms(attempt: int, policy: Policy, chance: float) -> int:
    """Wait after failed attempt `attempt`: ``min(base * 2**(attempt-1), max)`` plus jitter."""
    doublings = min(attempt - 1, 62)
    wait = min(policy.backoff_base_ms << doublings, policy.backoff_max_ms)
    return wait + round(wait * policy.retry_jitter * chance)


def retry(job: Job, now: int, error: str, delay_ms: int) -> Change:
    """Claimed back to pending, or to scheduled when there is a wait."""
    cleared = job._replace(suspicion=None)
    return _give_back(cleared, now, AttemptOutcome.RETRIED, error, _after(now, delay_ms))


def interrupt(job: Job, now: int, error: str) -> Change:
    """Claimed back to pending without spending the attempt: the worker stopped, not the job."""
    return _give_back_unspent(_not_alone(job), now, AttemptOutcome.INTERRUPTED, error, None)


def lose_process(job: Job, now: int, error: str, policy: Policy, chance: float) -> Change:
    """What ran the job, its process or its executor, has ended: it is a suspect from now on.

    The attempt counts only if nothing ran beside the job. `chance` is that of `nack`.
    """
    suspicion = job.suspicion or Suspicion()
    if not suspicion.alone:
        seen = suspicion._replace(interruptions=suspicion.interruptions + 1)
        suspect = job._replace(suspicion=seen)
        return _give_back_unspent(suspect, now, AttemptOutcome.INTERRUPTED, error, None)
    deaths = suspicion.deaths + 1
    if is_last_attempt(job):
        times = "once" if deaths == 1 else f"{deaths} times"
        reason = f"what ran it ended {times} while it ran alone, and it has no attempt left"
        return dead_letter(job, now, f"{reason}: {error}", AttemptOutcome.INTERRUPTED)
    suspect = job._replace(suspicion=Suspicion(suspicion.interruptions, deaths))
    run_at = _after(now, backoff_ms(deaths, policy, chance))
    return _give_back(suspect, now, AttemptOutcome.INTERRUPTED, error, run_at)


def snooze(job: Job, now: int, reason: str, delay_ms: int) -> Change:
    """Claimed to scheduled without spending the attempt: the job was not tried.

    The history gets no entry: a job may be snoozed any number of times, and it must not grow.
    """
    run_at = now + delay_ms
    unspent = job._replace(
        attempts=job.attempts - 1, last_error=reason, run_at=run_at, suspicion=None
    )
    return _leave_claimed(unspent, run_at, [], "snoozed")


def payload_missing(job: Job, now: int, reason: str, looks: Sequence[int]) -> Change:
    """Claimed, but the object of its payload was not found: looked for again, or dead.

    A single answer does not dead-letter a job. It returns without spending its attempt, each time
    for longer; several consecutive looks over some time must agree.

    Args:
        job: The job as it was claimed.
        now: Wall ms.
        reason: What was not found.
        looks: Wall ms of the earlier looks, newest last, with nothing else in between.
    """
    counted = 0
    newer = now
    for look in reversed(looks):
        if newer - look > _LOOKS_APART_MS:
            break
        counted, newer = counted + 1, look
    if counted >= len(_LOOK_PAUSES_MS):
        minutes = (now - newer) // 60_000
        return dead_letter(
            job, now, f"{reason}; looked for it {counted + 1} times in {minutes} min"
        )
    run_at = now + _LOOK_PAUSES_MS[counted]
    outcome = AttemptOutcome.PAYLOAD_MISSING
    return _give_back_unspent(_not_alone(job), now, outcome, reason, run_at)


def dead_letter(
    job: Job, now: int, reason: str, outcome: AttemptOutcome = AttemptOutcome.DEAD_LETTERED
) -> Change:
    """Claimed to dead."""
    ops: list[Op] = [(keys.claimed(job.queue, job.id), None)]
    dead = _record_attempt(job, now, outcome, reason, ops)
    dead = dead._replace(finished_at=now, last_error=reason, suspicion=None)
    key = _put_finished(dead, DEAD, ops)
    counts = Counters(claimed=-1, dead=1)
    return Change(dead, DEAD, key, ops, counts, _ENDS_AS[outcome])


def take_back(job: Job, now: int) -> Change:
    """The lease expired: the attempt counts."""
    error = "the lease expired"
    if is_last_attempt(job):
        return dead_letter(job, now, error, AttemptOutcome.LEASE_EXPIRED)
    cleared = job._replace(suspicion=None)
    return _give_back(cleared, now, AttemptOutcome.LEASE_EXPIRED, error, None)


def promote(job: Job, key: bytes) -> Change:
    """Scheduled to pending, its time having come; `key` is its row's."""
    return _leave_scheduled(job, key, "promoted")


def wake(job: Job, key: bytes, now: int, payload: bytes | None) -> Change:
    """Scheduled to pending before its time, with a note of when and why."""
    woken = job._replace(woken_at=now, wake_payload=payload)
    return _leave_scheduled(woken, key, "woken")


def cancel(job: Job, status: JobStatus, key: bytes) -> Change:
    """A pending or scheduled job leaves, or a claimed one that is nobody's; `key` is its row's."""
    ops: list[Op] = [(key, None)]
    _free_dedup_key(job, ops)
    _forget(job, ops)
    return Change(job, None, key, ops, _negated(_ENTERS[status]), "cancelled")


def request_cancel(job: Job) -> Change:
    """A claimed job is asked to stop; the request survives redelivery."""
    asked = job._replace(cancel_requested=True)
    key = keys.claimed(job.queue, job.id)
    ops: list[Op] = [(key, encode_job(asked))]
    return Change(asked, CLAIMED, key, ops, _NO_COUNT, "asked_to_cancel")


def requeue_dead(job: Job, key: bytes, now: int) -> Change:
    """Dead to pending with fresh attempts; id and enqueue time stay."""
    ops: list[Op] = [(key, None)]
    fresh = _record_attempt(job, now, AttemptOutcome.REQUEUED, None, ops, counted=False)
    fresh = fresh._replace(attempts=0, run_at=None, finished_at=None, cancel_requested=False)
    placed = _place(fresh, None, "requeued")
    ops += placed.ops
    counts = Counters(pending=1, dead=-1)
    return Change(fresh, placed.status, placed.key, ops, counts, placed.event)


def expire(job: Job, status: JobStatus, key: bytes) -> Change:
    """A done or dead job leaves, by retention or by request; `key` is its row's."""
    ops: list[Op] = [(key, None)]
    _forget(job, ops)
    counts = Counters(dead=-1) if status is DEAD else _NO_COUNT
    return Change(job, None, key, ops, counts, "expired")


def _place(job: Job, run_at: int | None, event: Event) -> Change:
    """Put a job where it waits to be claimed, and point the index at it."""
    if run_at is None:
        status = PENDING
        key = keys.pending(job.queue, job.priority, job.id)
        location = encode_live_location(job.queue, job.priority)
    else:
        status = SCHEDULED
        key = keys.scheduled(run_at, job.queue, job.id)
        location = encode_location(status, job.queue, run_at)
    ops: list[Op] = [(key, encode_job(job)), (keys.index(job.id), location)]
    return Change(job, status, key, ops, _ENTERS[status], event)


def _give_back(
    job: Job,
    now: int,
    outcome: AttemptOutcome,
    error: str,
    run_at: int | None,
) -> Change:
    ops: list[Op] = []
    back = _record_attempt(job, now, outcome, error, ops)
    back = back._replace(last_error=error, run_at=run_at)
    return _leave_claimed(back, run_at, ops, _ENDS_AS[outcome])


def _give_back_unspent(
    job: Job, now: int, outcome: AttemptOutcome, error: str, run_at: int | None
) -> Change:
    ops: list[Op] = []
    back = _record_attempt(job, now, outcome, error, ops, counted=False)
    back = back._replace(attempts=job.attempts - 1, last_error=error, run_at=run_at)
    return _leave_claimed(back, run_at, ops, _ENDS_AS[outcome])


def _not_alone(job: Job) -> Job:
    if job.suspicion is None:
        return job
    return job._replace(suspicion=job.suspicion._replace(alone=False))


def _after(now: int, delay_ms: int) -> int | None:
    """When a job may run again; None is at once."""
    return now + delay_ms if delay_ms else None


def _leave_claimed(job: Job, run_at: int | None, ops: list[Op], event: Event) -> Change:
    """Put a claimed job where it waits to be claimed again."""
    placed = _place(job, run_at, event)
    ops += [(keys.claimed(job.queue, job.id), None), *placed.ops]
    counts = placed.counts._replace(claimed=-1)
    return Change(job, placed.status, placed.key, ops, counts, placed.event)


def _leave_scheduled(job: Job, key: bytes, event: Event) -> Change:
    placed = _place(job, None, event)
    ops: list[Op] = [(key, None), *placed.ops]
    counts = Counters(pending=1, scheduled=-1)
    return Change(job, placed.status, placed.key, ops, counts, placed.event)


def _put_finished(job: Job, status: JobStatus, ops: list[Op]) -> bytes:
    space = keys.DONE if status is DONE else keys.DEAD
    at = job.finished_at or 0
    key = keys.finished(space, job.queue, at, job.id)
    ops.append((key, encode_job(job)))
    ops.append((keys.index(job.id), encode_location(status, job.queue, at)))
    return key


def _record_attempt(
    job: Job,
    now: int,
    outcome: AttemptOutcome,
    error: str | None,
    ops: list[Op],
    *,
    counted: bool = True,
) -> Job:
    entry = encode_attempt(
        job.attempts,
        job.claimed_at,
        now,
        outcome,
        error,
        counted=counted,
        worker=job.worker,
    )
    ops.append((keys.history(job.id, job.history_length), entry))
    return job._replace(history_length=job.history_length + 1)


def _free_dedup_key(job: Job, ops: list[Op]) -> None:
    if job.holds_dedup_key and job.dedup_key is not None:
        ops.append((keys.dedup(job.queue, job.dedup_key), None))


def _forget(job: Job, ops: list[Op]) -> None:
    """Remove everything that is kept about a job besides its own row."""
    ops.append((keys.index(job.id), None))
    if job.history_length:
        ops += [(keys.history(job.id, number), None) for number in range(job.history_length)]


def _negated(counts: Counters) -> Counters:
    return Counters(*(-count for count in counts))
