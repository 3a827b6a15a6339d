"""Large payloads on their way to the claimer or reader of a job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Final

from taquba._interface.claim import HeldClaim, give_payload, is_held, lease_of
from taquba._model import validate
from taquba._model.errors import ClaimLost, PayloadDamaged, PayloadMissing, StoreError, TaqubaError
from taquba._model.log_fields import about_job
from taquba._model.validate import Duration
from taquba._objects.payloads import PayloadReads
from taquba._queue import claims, settling
from taquba._queue.claims import OwnedClaim
from taquba._queue.in_slices import in_slices
from taquba._queue.owner import Owner, QueueState

_log: Final = logging.getLogger(__name__)

_MAX_CLAIM_BATCH: Final = 10_000

AFTER_FAILURE_SECONDS: Final = 1.0
"""How long a worker leaves a place empty after the payload of its job could not be read."""

_RETRY_MS: Final = 5000
"""When a job is tried again whose payload could not be read."""

_READING_MS: Final = 24 * 3600 * 1000
"""How long a lease lasts, at least, while payloads are read: beyond the end of any read."""


async def claim_for(
    owner: Owner,
    worker: str | None,
    queue: str,
    max_jobs: int,
    *,
    lease: Duration | None = None,
    wait: Duration | None = None,
) -> list[OwnedClaim]:
    """Claim jobs for a caller in the process `worker`; see `Store.claim_batch`."""
    state = owner.queue(validate.queue_name(queue))
    return await claim_batch(
        owner,
        state,
        validate.integer(max_jobs, "max_jobs", 1, _MAX_CLAIM_BATCH),
        state.policy.lease_ms if lease is None else validate.duration_ms(lease, "lease", minimum=1),
        validate.optional_duration_ms(wait, "wait"),
        worker,
    )


async def claim_batch(
    owner: Owner,
    state: QueueState,
    limit: int,
    lease_ms: int,
    wait_ms: int | None,
    worker: str | None,
) -> list[OwnedClaim]:
    """Claim up to `limit` jobs, with their payloads, waiting up to `wait_ms` for the first."""
    deadline = owner.clock.monotonic_ms() + (wait_ms or 0)
    while True:
        found = await claims.claim_batch(owner, state, limit, lease_ms, wait_ms, worker)
        if all(claim.payload_ref is None for claim in found):
            return found
        ready = await _load_all(owner, found, lease_ms)
        if ready:
            return ready
        wait_ms = max(0, deadline - owner.clock.monotonic_ms())


async def _load_all(owner: Owner, found: list[OwnedClaim], lease_ms: int) -> list[OwnedClaim]:
    """The claims of a batch that can be processed; their leases count from now.

    Raises:
        StoreError: There are none, because of the store. Trying the next jobs would never end: jobs
            that were put back are pending again before the last one of a long queue was tried.
    """
    try:
        with _leases_kept(owner, found, lease_ms):
            problems = await in_slices(partial(_read, owner), found)
    except BaseException:
        # Nobody will settle these.
        leases = [lease_of(claim) for claim in found]
        claims.release(owner, leases, claims.ABANDONED)
        raise
    ready = [
        claim
        for claim, problem in zip(found, problems, strict=True)
        if problem is None and is_held(claim)
    ]
    if not ready:
        for problem in problems:
            if isinstance(problem, StoreError):
                raise problem
    return ready


async def load(owner: Owner, claim: OwnedClaim, lease_ms: int) -> bool:
    """Read the payload of a claimed job, if it is an object of its own; see `_read`."""
    with _leases_kept(owner, [claim], lease_ms):
        problem = await _read(owner, claim)
    if isinstance(problem, StoreError):
        # The payloads of the next jobs would probably fail as well.
        await asyncio.sleep(AFTER_FAILURE_SECONDS)
    return problem is None and is_held(claim)


@contextmanager
def _leases_kept(owner: Owner, found: list[OwnedClaim], lease_ms: int) -> Generator[None]:
    """Keep leases from expiring while payloads are read, which is bounded; count from the end."""
    for claim in found:
        claims.keep_alive(owner, lease_of(claim), _READING_MS)
    try:
        yield
    finally:
        for claim in found:
            if is_held(claim):
                claims.renew(owner, lease_of(claim), lease_ms)


async def _read(owner: Owner, claim: OwnedClaim) -> TaqubaError | None:
    """Read the payload of a claimed job; returns why it cannot be processed, or None.

    A job whose object cannot be read now, is not found, or is damaged, is put back without spending
    its attempt. It is dead-lettered once several looks over some time did not find the object
    intact.
    """
    problem = await read_payload(owner.payloads, claim)
    if problem is not None:
        await give_back_unread(owner, claim, problem)
    return problem


async def read_payload(payloads: PayloadReads, claim: HeldClaim) -> TaqubaError | None:
    """Put the payload of a claimed job into its claim; returns why that cannot be done, or None."""
    ref = claim.payload_ref
    if ref is None:
        return None
    try:
        payload = await payloads.fetch(ref)
        if payload is None:
            # If all objects are out of reach, none of them is missing.
            await payloads.check_place()
    except PayloadDamaged as damaged:
        return damaged
    except StoreError as error:
        _log.warning(
            "the payload of job %s could not be read: %s", claim.id, error, extra=about_job(claim)
        )
        return error
    if payload is None:
        return PayloadMissing(claim.id, ref)
    give_payload(claim, payload)
    return None


async def give_back_unread(owner: Owner, claim: OwnedClaim, error: TaqubaError) -> None:
    """Put a job back whose payload could not be read."""
    try:
        if isinstance(error, PayloadMissing):
            dead = await settling.payload_missing(owner, claim, str(error))
            level, what = (
                (logging.ERROR, "is a dead letter") if dead else (logging.WARNING, "waits")
            )
            _log.log(level, "job %s %s: %s", claim.id, what, error, extra=about_job(claim))
        else:
            # A failure of the store is not a failure of the job: its attempt is not spent.
            why = f"its payload could not be read: {error}"
            await settling.snooze(owner, claim, why, _RETRY_MS)
    except (ClaimLost, StoreError) as unsettled:
        _log.warning(
            "job %s could not be given back: %s", claim.id, unsettled, extra=about_job(claim)
        )
