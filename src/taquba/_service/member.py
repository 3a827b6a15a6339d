"""This process as one that works: its worker loops, and what they hold, whoever owns the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from taquba._interface.store import Store
from taquba._line.joining import NamedJob
from taquba._model import keys
from taquba._model.clock import Clock
from taquba._objects.payloads import PayloadReads
from taquba._queue.adoption import member_row, replace
from taquba._queue.owner import Owner
from taquba._service.held import MemberClaim
from taquba._service.member_source import MemberSource
from taquba._service.remote import RemoteOwner
from taquba._store.transaction import Transaction

if TYPE_CHECKING:
    from taquba._telemetry.instrumentation import Instrumentation


class Member:
    """The part of a service's process that runs handlers.

    Args:
        store: The handle of this process.
        remote: Calls an owner in another process.
        clock: The clock of the service.
        enter: Waits, or raises, where a call would.
        check: Raises where a call would.
        payloads: Opens the payloads of the store for reading.
    """

    def __init__(
        self,
        store: Store,
        remote: RemoteOwner,
        clock: Clock,
        *,
        enter: Callable[[], Awaitable[None]],
        check: Callable[[], None],
        payloads: Callable[[], Awaitable[PayloadReads]],
    ) -> None:
        self.store = store
        self.remote = remote
        self.clock = clock
        self.enter = enter
        self.check = check
        self.payloads = payloads
        self.telemetry: Instrumentation | None = None
        self.owner: Owner | None = None
        """The owner of the store, if that is this process."""
        self.opens = False
        """Whether this process is about to become the owner."""
        self._numbers = count(1)
        self._sources: dict[int, MemberSource] = {}
        self.runners: dict[str, object] = {}
        """By queue name: the handler of the runner that has reserved the queue."""
        remote.works = self

    # -- worker loops -----------------------------------------------------------------------

    def source(self, queue: str, lease_ms: int) -> MemberSource:
        """The source of a worker loop."""
        return MemberSource(self, next(self._numbers), queue, lease_ms)

    def handlers(self, queue: str) -> Iterator[object]:
        """What serves a queue in this process."""
        if queue in self.runners:
            yield self.runners[queue]
        for source in self._sources.values():
            if source.queue == queue and source.takes:
                yield source.handler
        if self.owner is not None:
            yield from self.owner.handlers(queue)

    @property
    def takes(self) -> bool:
        """Whether worker loops take jobs."""
        return bool(self._sources)

    def add(self, source: MemberSource) -> None:
        self._sources[source.number] = source
        self.remote.look_again()

    def remove(self, source: MemberSource) -> None:
        self._sources.pop(source.number, None)

    # -- an owner elsewhere -----------------------------------------------------------------

    def joined(self) -> None:
        """An owner in another process knows this one."""
        if self.owner is None:
            self._moved()

    def arrived(self, number: int, claims: list[MemberClaim]) -> None:
        """Jobs were claimed for a worker loop."""
        self._sources[number].arrived(claims)

    def queue_of(self, number: int) -> str | None:
        """The queue of a worker loop; None if it takes no more jobs."""
        source = self._sources.get(number)
        return source.queue if source is not None and source.takes else None

    # -- this process as the owner ----------------------------------------------------------

    async def become_owner(self, owner: Owner) -> None:
        """Adopt what this process holds from a former owner, and claim here."""
        adoption = owner.adoption
        assert adoption is not None
        held = self.remote.claims
        named = held.lose_all_but(None)
        own = self.remote.about.id
        found = await adoption.adopt(own, [NamedJob.of(claim.lease.job) for claim in named])
        for claim, lease in zip(named, found, strict=True):
            if lease is None:
                held.end(claim)
                continue
            asked = lease.job.cancel_requested and not claim.lease.job.cancel_requested
            replace(owner, lease, claim.lease)
            held.bind_here(claim, owner)
            if asked:
                claim.lease.fire_token()
        # Should this process be fenced, and go on, the next owner waits for what it runs.
        await self._note(owner, [member_row(self.remote.about)])
        adoption.heard_of(own)
        self.owner = owner
        owner.on_failure.add(self._owner_failed)
        self._moved()

    async def leave(self) -> None:
        """This process gives up the store: nothing runs here that the next owner need wait for."""
        owner = self.owner
        if owner is not None and not any(source.holds for source in self._sources.values()):
            await self._note(owner, [(keys.member(self.remote.about.id), None)])

    async def _note(self, owner: Owner, rows: list[keys.Op]) -> None:
        transaction = Transaction()
        transaction.ops += rows
        await owner.committer.submit(transaction, durable=True)

    def close(self) -> None:
        """Give back what worker loops still hold: soon that is not possible any longer."""
        for source in list(self._sources.values()):
            source.let_go()

    def _owner_failed(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            for source in self._sources.values():
                source.cast_adrift(owner)
            for claim in self.remote.claims.here(owner):
                self.remote.claims.cast_adrift(claim)
            self.remote.look_again()
            self._moved()

    def _moved(self) -> None:
        for source in list(self._sources.values()):
            source.moved()
