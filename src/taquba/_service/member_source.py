"""The jobs of a worker loop of a service, whichever process owns the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from taquba._interface.claim import HeldClaim, lease_of
from taquba._interface.store import Store
from taquba._line import methods
from taquba._line.client import Disconnected
from taquba._line.values import dump_arguments
from taquba._model.clock import Clock
from taquba._model.errors import CancelRequested, TaqubaError
from taquba._model.options import SettlementEffects
from taquba._model.validate import KvKey
from taquba._objects.payloads import PayloadReads
from taquba._queue import claims, settling
from taquba._queue.owner import Owner
from taquba._queue.payload_reads import AFTER_FAILURE_SECONDS, read_payload
from taquba._service.held import MemberClaim
from taquba._service.remote import MovedHere, RemoteOwner, by_method
from taquba._worker.handlers import refuse_others
from taquba._worker.own_source import OwnSource
from taquba._worker.source import JobSource, Loop

if TYPE_CHECKING:
    from taquba._telemetry.instrumentation import Instrumentation

T = TypeVar("T")


class Workplace(Protocol):
    """The process of a worker loop."""

    @property
    def store(self) -> Store:
        """Its handle on the store."""
        ...

    @property
    def remote(self) -> RemoteOwner:
        """Calls an owner in another process."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of the service."""
        ...

    @property
    def owner(self) -> Owner | None:
        """The owner of the store, if that is this process."""

    @property
    def telemetry(self) -> Instrumentation | None:
        """What measures and traces handlers."""

    @property
    def enter(self) -> Callable[[], Awaitable[None]]:
        """Waits, or raises, where a call would."""
        ...

    def check(self) -> None:
        """Raise where a call would."""

    @property
    def payloads(self) -> Callable[[], Awaitable[PayloadReads]]:
        """Opens the payloads of the store."""
        ...

    def handlers(self, queue: str) -> Iterable[object]:
        """What serves a queue in this process."""
        ...

    def add(self, source: MemberSource) -> None:
        """A worker loop begins."""

    def remove(self, source: MemberSource) -> None:
        """A worker loop has ended."""


class MemberSource(JobSource):
    """The jobs of a queue for one worker loop.

    Args:
        member: This process.
        number: The loop's name between this process and an owner elsewhere.
        queue: Name of the queue.
        lease_ms: How long a claim is held before it must be renewed.
    """

    def __init__(self, member: Workplace, number: int, queue: str, lease_ms: int) -> None:
        self._member = member
        self._remote = member.remote
        self.store = member.store
        self.number = number
        self.queue = queue
        self.lease_ms = lease_ms
        self.clock = member.clock
        self.loop = asyncio.get_running_loop()
        self._worker: Loop | None = None
        self.handler: object = None
        self._places = 0
        self._claims = False
        """Whether the loop takes jobs."""
        self._here: OwnSource | None = None
        """While it claims from an owner in this process."""
        self._arrived: deque[MemberClaim] = deque()
        """Jobs that an owner elsewhere has sent, and that the loop has not taken."""
        self._asked = 0
        """Places that were offered to the current owner, and not used yet."""
        self._empty = True

    async def enter(self) -> None:
        await self._member.enter()

    def check(self) -> None:
        self._member.check()

    def processing(self, claim: HeldClaim, call: Awaitable[T]) -> Awaitable[T]:
        telemetry = self._member.telemetry
        return call if telemetry is None else telemetry.processing(claim, call)

    # -- owners come and go -----------------------------------------------------------------

    def moved(self) -> None:
        """Another process, or this one, is the owner now."""
        self._leave_owner()
        if self._claims:
            self._begin()
        if self._worker is not None:
            self._worker.wake()

    def cast_adrift(self, owner: Owner) -> None:
        """The owner in this process has ended: what it holds is to be known to the next one."""
        for claim in () if self._worker is None else self._worker.held():
            if isinstance(claim, MemberClaim) and claim.owner is owner:
                self._remote.claims.cast_adrift(claim)

    def let_go(self) -> None:
        """The service ends."""
        if self._worker is not None:
            self._worker.let_go()
            self._worker.wake()

    def _begin(self) -> None:
        self._asked = 0
        owner = self._member.owner
        if owner is not None:
            self._here = self._source_of(owner)
            self._here.begin_claiming(self.handler, self._places)
        else:
            places = self._places
            self._remote.say(methods.WORK, self.number, self.queue, self.lease_ms, places)

    def _leave_owner(self) -> None:
        here, self._here = self._here, None
        if here is not None:
            here.end_claiming(self.handler)

    def _source_of(self, owner: Owner) -> OwnSource:
        """The jobs of an owner in this process."""
        return OwnSource(owner, self.queue, self.lease_ms, self.store)

    # -- claiming ---------------------------------------------------------------------------

    def attach(self, loop: Loop, handler: object) -> None:
        refuse_others(self.queue, handler, self._member.handlers(self.queue))
        self._worker = loop
        self._member.add(self)

    def detach(self, loop: Loop) -> None:
        del loop
        self._member.remove(self)
        self._worker = None

    def begin_claiming(self, handler: object, places: int) -> None:
        self.handler = handler
        self._places = places
        self._claims = True
        self._begin()

    def end_claiming(self, handler: object) -> None:
        del handler
        self._claims = False
        if self._here is None:
            self._remote.say(methods.LEAVE, self.number)
        self._leave_owner()
        arrived, self._arrived = self._arrived, deque()
        self._remote.release(arrived, claims.ABANDONED)

    @property
    def holds(self) -> bool:
        """Whether jobs of the loop run, or wait for it."""
        return bool(self._arrived) or (self._worker is not None and any(self._worker.held()))

    @property
    def takes(self) -> bool:
        """Whether the loop takes jobs."""
        return self._claims

    @property
    def lets_suspects_pass(self) -> bool:
        owner = self._member.owner
        return owner is not None and owner.gate.active

    async def take(self, limit: int) -> Sequence[HeldClaim]:
        here, owner = self._here, self._member.owner
        if here is not None and owner is not None and not self._arrived:
            try:
                found = await here.take(limit)
            except TaqubaError:
                # Another owner is to come, which sends jobs, or takes them here.
                if owner.failure is None:
                    raise
                return ()
            return [self._claim_here(owner, claim) for claim in found]
        taken: list[MemberClaim] = []
        while self._arrived and len(taken) < limit:
            claim = self._arrived.popleft()
            if claim.lease.state == "held":
                taken.append(claim)
        wanted = limit - len(taken) - self._asked
        if self._here is None and wanted > 0:
            self._asked += wanted
            self._remote.say(methods.FREE, self.number, wanted)
        self._empty = not taken
        return taken

    def _claim_here(self, owner: Owner, found: HeldClaim) -> MemberClaim:
        claim = MemberClaim(lease_of(found), self._remote)
        claim.owner = owner
        return claim

    def arrived(self, found: Iterable[MemberClaim]) -> None:
        """An owner elsewhere has sent jobs."""
        before = len(self._arrived)
        # The owner's own lease began when it claimed: some of it may have passed on the way.
        expires_at = self.clock.monotonic_ms() + self.lease_ms * 9 // 10
        for claim in found:
            claim.lease.expires_at = expires_at
            self._arrived.append(claim)
        self._asked -= len(self._arrived) - before
        if self._worker is not None:
            self._worker.wake()

    def join(self, loop: Loop) -> object:
        here = self._here
        return None if here is None else (here, here.join(loop))

    def leave(self, joined: object, *, goes_on: bool) -> None:
        if joined is not None:
            here, ready = cast("tuple[OwnSource, object]", joined)
            here.leave(ready, goes_on=goes_on)

    @property
    def empty(self) -> bool:
        if self._arrived:
            return False
        return self._empty if self._here is None else self._here.empty

    async def bring_in(self) -> None:
        if self._here is not None:
            await self._here.bring_in()
        else:
            self._empty = await self._remote.bring_in(self.queue)

    # -- what is held -----------------------------------------------------------------------

    async def load(self, claim: HeldClaim) -> bool:
        member_claim = cast("MemberClaim", claim)
        owner = member_claim.owner
        if owner is not None:
            here = member_claim.at(owner)
            loaded = await self._source_of(owner).load(here)
            member_claim.take_payload(here)
            return loaded
        problem = await read_payload(await self._member.payloads(), member_claim)
        if problem is not None:
            arguments = {"kind": type(problem).__name__, "why": str(problem)}
            try:
                await self._remote.about_claim(
                    member_claim, partial(_end_otherwise, "unread", member_claim, arguments)
                )
            except MovedHere:
                return await self.load(claim)
            await asyncio.sleep(AFTER_FAILURE_SECONDS)
        return problem is None and member_claim.lease.state == "held"

    def keep_alive(self, held: Iterable[HeldClaim]) -> None:
        expires_at = self.clock.monotonic_ms() + self.lease_ms
        elsewhere: list[MemberClaim] = []
        for claim in cast("Iterable[MemberClaim]", held):
            if claim.owner is not None:
                claims.keep_alive(claim.owner, claim.lease, self.lease_ms)
            elif claim.lease.state == "held" and claim.lease.expires_at < expires_at:
                claim.lease.expires_at = expires_at
                elsewhere.append(claim)
        self._remote.renew(elsewhere, self.lease_ms)

    def extend(self, claim: HeldClaim, extension_ms: int) -> None:
        member_claim = cast("MemberClaim", claim)
        lease = member_claim.held
        if lease.job.cancel_requested:
            raise CancelRequested(lease.job.id)
        expires_at = self.clock.monotonic_ms() + extension_ms
        if lease.expires_at >= expires_at:
            return
        if member_claim.owner is not None:
            claims.renew(member_claim.owner, lease, extension_ms)
        else:
            lease.expires_at = expires_at
            self._remote.renew([member_claim], extension_ms)

    def expiry(self, claim: HeldClaim) -> datetime:
        remaining = cast("MemberClaim", claim).held.expires_at - self.clock.monotonic_ms()
        return self.clock.now() + timedelta(milliseconds=remaining)

    async def kv_put(self, claim: HeldClaim, key: KvKey, value: bytes) -> None:
        await self._settle_otherwise(claim, "kv_put", {"key": key, "value": value})

    # -- ends -------------------------------------------------------------------------------

    async def ack(self, claim: HeldClaim, effects: SettlementEffects | None) -> None:
        member_claim = cast("MemberClaim", claim)
        if effects is not None:
            await self._settle_by_method(member_claim, "ack", {"effects": self._carried(effects)})
            return
        while True:
            owner = member_claim.owner
            if owner is not None:
                try:
                    await settling.ack(owner, member_claim.at(owner), None)
                    return
                except TaqubaError:
                    if not _is_anothers(member_claim, owner):
                        raise
            elif await self._done(member_claim):
                return

    async def _done(self, claim: MemberClaim) -> bool:
        """Acknowledge at an owner elsewhere; False if another one must be asked."""
        lease = claim.held
        await self._remote.until_bound(claim)
        if claim.connection is None:
            return False
        lease.enter("settling")
        try:
            await self._remote.done(claim)
        except Disconnected:
            # The next owner is told.
            if not claim.adrift and lease.state != "over":
                self._remote.claims.cast_adrift(claim)
            return False
        except BaseException:
            if lease.state == "settling":
                lease.enter("held")
            raise
        return True

    async def nack(
        self,
        claim: HeldClaim,
        error: str,
        effects: SettlementEffects | None,
        delay_ms: int | None,
    ) -> bool:
        arguments = {"error": error, "effects": self._carried(effects), "delay_ms": delay_ms}
        return cast("bool", await self._settle_otherwise(claim, "nack", arguments))

    async def dead_letter(
        self, claim: HeldClaim, reason: str, effects: SettlementEffects | None
    ) -> None:
        arguments = {"reason": reason, "effects": self._carried(effects)}
        await self._settle_by_method(claim, "dead_letter", arguments)

    async def snooze(self, claim: HeldClaim, reason: str, delay_ms: int) -> None:
        arguments = {"reason": reason, "delay_ms": delay_ms}
        await self._settle_otherwise(claim, "snooze", arguments)

    def _carried(self, effects: SettlementEffects | None) -> SettlementEffects | None:
        """Effects whose jobs continue the trace of the handler that returned them."""
        telemetry = self._member.telemetry
        if telemetry is None or effects is None or not effects.enqueues:
            return effects
        return replace(effects, enqueues=telemetry.carried(effects.enqueues))

    async def _settle_by_method(
        self, claim: HeldClaim, name: str, arguments: Mapping[str, object]
    ) -> None:
        """Settle as a method of the handle does."""
        await self._settle(claim, name, arguments, by_method)

    async def _settle_otherwise(
        self, claim: HeldClaim, how: str, arguments: Mapping[str, object]
    ) -> object:
        """Settle, or write, as only worker loops do."""
        return await self._settle(claim, how, arguments, _end_otherwise)

    async def _settle(
        self,
        claim: HeldClaim,
        how: str,
        arguments: Mapping[str, object],
        call: Callable[[str, MemberClaim, Mapping[str, object]], list[Any]],
    ) -> object:
        """Settle a claim at whichever owner holds it: by a method of its `OwnSource`, or a call."""
        member_claim = cast("MemberClaim", claim)
        while True:
            owner = member_claim.owner
            if owner is None:
                with suppress(MovedHere):
                    return await self._remote.about_claim(
                        member_claim, partial(call, how, member_claim, arguments)
                    )
                continue
            settle = getattr(self._source_of(owner), how)
            try:
                return await settle(member_claim.at(owner), **arguments)
            except TaqubaError:
                if not _is_anothers(member_claim, owner):
                    raise

    def release(self, held: Sequence[HeldClaim], why: str) -> Awaitable[None] | None:
        given = cast("Sequence[MemberClaim]", held)
        owner = self._member.owner
        here = [claim.lease for claim in given if owner is not None and claim.owner is owner]
        landed = self._remote.release([one for one in given if one.owner is None], why)
        stored = claims.release(owner, here, why) if owner is not None and here else None
        if landed is not None and stored is not None:
            return _both(landed, stored)
        return stored if landed is None else landed

    def lose_process(self, claim: HeldClaim, why: str) -> Awaitable[None] | None:
        lost = cast("MemberClaim", claim)
        if lost.owner is not None:
            return claims.lose_process(lost.owner, lost.lease, why)
        return self._remote.lose_process(lost, why)


async def _both(one: Awaitable[None], other: Awaitable[None]) -> None:
    await one
    await other


def _is_anothers(claim: MemberClaim, owner: Owner) -> bool:
    """Whether an owner in this process has ended, so that another one decides on a claim."""
    return owner.failure is not None and claim.adrift


def _end_otherwise(how: str, claim: MemberClaim, arguments: Mapping[str, object]) -> list[Any]:
    """A call about a claim that only worker loops make, wherever it is held now."""
    return [methods.END, claim.token, claim.id, how, dump_arguments(arguments)]
