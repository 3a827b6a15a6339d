"""Large payloads on their way to whoever claims or reads a job."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from taquba._memory.leases import LeaseState
from taquba._model.errors import ClaimLost, PayloadMissing, StoreError, TaqubaError
from taquba._model.log_fields import about_job
from taquba._queue import claims, settling
from taquba._queue.claims import Claim
from taquba._queue.core import Core, QueueState
from taquba._store.reads import OPERATION_TIMEOUT

_log: Final = logging.getLogger(__name__)

_RETRY_MS: Final = 5000
"""When a job is tried again whose payload could not be read."""


async def claim_batch(
    core: Core, state: QueueState, limit: int, lease_ms: int, wait_ms: int | None
) -> list[Claim]:
    """Claim up to `limit` jobs, with their payloads, waiting up to `wait_ms` for the first."""
    deadline = core.clock.monotonic_ms() + (wait_ms or 0)
    while True:
        found = await claims.claim_batch(core, state, limit, lease_ms, wait_ms)
        if all(claim.payload_ref is None for claim in found):
            return found
        ready = await _load_all(core, found, lease_ms)
        if ready:
            return ready
        wait_ms = max(0, deadline - core.clock.monotonic_ms())


async def _load_all(core: Core, found: list[Claim], lease_ms: int) -> list[Claim]:
    try:
        loaded = await asyncio.gather(*(load(core, claim, lease_ms) for claim in found))
    except BaseException:
        # Nobody will settle these.
        leases = [claims.lease_of(claim) for claim in found]
        claims.release(core, leases, claims.ABANDONED)
        raise
    return [claim for claim, ready in zip(found, loaded, strict=True) if ready]


async def load(core: Core, claim: Claim, lease_ms: int) -> bool:
    """Read the payload of a claimed job, if it is an object of its own.

    False when there is nothing to work on: a job whose object is gone is dead-lettered, and one
    whose object cannot be read now is put back, its attempt not spent.
    """
    lease = claims.lease_of(claim)
    ref = lease.job.payload_ref
    if ref is None:
        return True
    claims.keep_alive(core, claim, lease_ms + round(OPERATION_TIMEOUT * 1000))
    try:
        payload = await core.payloads.fetch(ref)
    except StoreError as error:
        _log.warning(
            "the payload of job %s could not be read: %s", claim.id, error, extra=about_job(claim)
        )
        await _fail(core, claim, error)
        return False
    if payload is None:
        missing = PayloadMissing(claim.id, ref)
        _log.error("dead-lettering job %s: %s", claim.id, missing, extra=about_job(claim))
        await _fail(core, claim, missing)
        return False
    if lease.state is not LeaseState.held:
        return False
    claims.renew(core, lease, lease_ms)
    claims.give_payload(claim, payload)
    return True


async def _fail(core: Core, claim: Claim, error: TaqubaError) -> None:
    try:
        if isinstance(error, PayloadMissing):
            await settling.dead_letter(core, claim, str(error), None)
        elif error.permanent:
            await settling.nack(core, claim, str(error), None)
        else:
            # The store's trouble is not the job's: its attempt is not spent.
            why = f"its payload could not be read: {error}"
            await settling.snooze(core, claim, why, _RETRY_MS)
    except (ClaimLost, StoreError) as unsettled:
        _log.warning(
            "job %s could not be given back: %s", claim.id, unsettled, extra=about_job(claim)
        )
