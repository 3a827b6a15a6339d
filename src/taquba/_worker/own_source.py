"""The jobs of an owner in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar, cast

from taquba._interface.claim import HeldClaim, lease_of
from taquba._interface.store import Store
from taquba._model.errors import CancelRequested
from taquba._model.options import SettlementEffects
from taquba._model.validate import KvKey
from taquba._queue import claims, key_values, loops, settling
from taquba._queue.claims import OwnedClaim
from taquba._queue.owner import Owner
from taquba._queue.payload_reads import load
from taquba._worker.handlers import refuse_others
from taquba._worker.source import JobSource, Loop

T = TypeVar("T")


class OwnSource(JobSource):
    """The jobs of a queue whose owner is in this process.

    Args:
        owner: The owner.
        queue: Name of the queue.
        lease_ms: How long a claim is held; None for the queue's own.
        store: The handle under which the loop runs.
    """

    def __init__(self, owner: Owner, queue: str, lease_ms: int | None, store: Store) -> None:
        self._owner = owner
        self._state = owner.queue(queue)
        self.store = store
        self.queue = queue
        self.lease_ms = self._state.policy.lease_ms if lease_ms is None else lease_ms
        self.clock = owner.clock
        self.loop = owner.loop
        self._places = 0

    async def enter(self) -> None:
        await self._owner.enter()

    def check(self) -> None:
        self._owner.check()

    def processing(self, claim: HeldClaim, call: Awaitable[T]) -> Awaitable[T]:
        telemetry = self._owner.telemetry
        return call if telemetry is None else telemetry.processing(claim, call)

    # -- claiming ---------------------------------------------------------------------------

    def attach(self, loop: Loop, handler: object) -> None:
        refuse_others(self.queue, handler, self._owner.handlers(self.queue))
        self._owner.on_failure.add(loop.wake)
        self._owner.on_closing.add(loop.let_go)

    def detach(self, loop: Loop) -> None:
        self._owner.on_failure.discard(loop.wake)
        self._owner.on_closing.discard(loop.let_go)

    def begin_claiming(self, handler: object, places: int) -> None:
        self._places = places
        self._state.loop_begins(handler, places)

    def end_claiming(self, handler: object) -> None:
        self._state.loop_ends(handler, self._places)

    @property
    def lets_suspects_pass(self) -> bool:
        return self._owner.gate.active

    async def take(self, limit: int) -> Sequence[HeldClaim]:
        owner = self._owner
        return await claims.claim_ahead(owner, self._state, limit, self.lease_ms, owner.about.id)

    async def take_one_now(self) -> HeldClaim | None:
        """Claim the first job, whatever suspects wait for, and wait until that is written."""
        found = await claims.claim_batch(
            self._owner, self._state, 1, self.lease_ms, None, self._owner.about.id, patient=False
        )
        return found[0] if found else None

    def join(self, loop: Loop) -> object:
        ready = self._state.waiters.join()
        # Leaving cancels the future, and that must not wake the next wait.
        ready.add_done_callback(partial(_woken, loop))
        return ready

    def leave(self, joined: object, *, goes_on: bool) -> None:
        # A wakeup that the end of this worker leaves unused is for another claimer.
        self._state.waiters.leave(cast("asyncio.Future[None]", joined), pass_on=not goes_on)

    @property
    def empty(self) -> bool:
        return self._state.empty

    async def bring_in(self) -> None:
        await loops.bring_in(self._owner)

    # -- what is held -----------------------------------------------------------------------

    async def load(self, claim: HeldClaim) -> bool:
        return await load(self._owner, cast("OwnedClaim", claim), self.lease_ms)

    def keep_alive(self, held: Iterable[HeldClaim]) -> None:
        for claim in held:
            claims.keep_alive(self._owner, lease_of(claim), self.lease_ms)

    def extend(self, claim: HeldClaim, extension_ms: int) -> None:
        lease = claims.held_lease(self._owner, claim)
        if lease.job.cancel_requested:
            raise CancelRequested(lease.job.id)
        if lease.expires_at < self.clock.monotonic_ms() + extension_ms:
            claims.renew(self._owner, lease, extension_ms)

    def expiry(self, claim: HeldClaim) -> datetime:
        return claims.expiry(self._owner, claims.held_lease(self._owner, claim))

    async def kv_put(self, claim: HeldClaim, key: KvKey, value: bytes) -> None:
        claims.held_lease(self._owner, claim)
        await key_values.write(self._owner, key, value)

    # -- ends -------------------------------------------------------------------------------

    async def ack(self, claim: HeldClaim, effects: SettlementEffects | None) -> None:
        await settling.ack(self._owner, claim, effects)

    async def nack(
        self,
        claim: HeldClaim,
        error: str,
        effects: SettlementEffects | None,
        delay_ms: int | None,
    ) -> bool:
        return (await settling.nack(self._owner, claim, error, effects, delay_ms)).retried

    async def dead_letter(
        self, claim: HeldClaim, reason: str, effects: SettlementEffects | None
    ) -> None:
        await settling.dead_letter(self._owner, claim, reason, effects)

    async def snooze(self, claim: HeldClaim, reason: str, delay_ms: int) -> None:
        await settling.snooze(self._owner, claim, reason, delay_ms)

    def release(self, held: Sequence[HeldClaim], why: str) -> Awaitable[None] | None:
        return claims.release(self._owner, [lease_of(claim) for claim in held], why)

    def lose_process(self, claim: HeldClaim, why: str) -> Awaitable[None] | None:
        return claims.lose_process(self._owner, lease_of(claim), why)


def _woken(loop: Loop, ready: asyncio.Future[None]) -> None:
    if not ready.cancelled():
        loop.wake()
