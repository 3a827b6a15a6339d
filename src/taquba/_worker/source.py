"""Where a worker loop takes its jobs from, and where it says how they end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from taquba._interface.claim import HeldClaim
from taquba._interface.store import Store
from taquba._model.clock import Clock
from taquba._model.options import SettlementEffects
from taquba._model.validate import KvKey

T = TypeVar("T")


class Loop(Protocol):
    """A worker loop, as its source sees it."""

    def wake(self) -> None:
        """Something changed: jobs may have arrived, or `check` may raise."""

    def held(self) -> Iterable[HeldClaim]:
        """The jobs whose handlers run, or that are being settled."""
        ...

    def let_go(self) -> None:
        """Give everything back now: later that is not possible any longer."""


class JobSource(ABC):
    """The owner of a queue, in this process or another, as a worker loop uses it.

    Attributes:
        store: The handle on the store under which the loop runs.
        queue: Name of the queue.
        lease_ms: How long a claim is held before it must be renewed.
        clock: The clock that measures that.
        loop: The event loop of this process.
    """

    store: Store
    queue: str
    lease_ms: int
    clock: Clock
    loop: asyncio.AbstractEventLoop

    @abstractmethod
    async def enter(self) -> None:
        """Wait where a call would have to wait, before the loop begins."""

    @abstractmethod
    def check(self) -> None:
        """Raise the error that ends the loop, if there is one."""

    @abstractmethod
    def processing(self, claim: HeldClaim, call: Awaitable[T]) -> Awaitable[T]:
        """Await the call of a handler, and measure and trace it if that is wanted."""

    # -- claiming ---------------------------------------------------------------------------

    @abstractmethod
    def attach(self, loop: Loop, handler: object) -> None:
        """Begin; raises `InvalidArgument` where the queue has another handler in this process."""

    @abstractmethod
    def detach(self, loop: Loop) -> None:
        """The loop has ended, and holds nothing any longer."""

    @abstractmethod
    def begin_claiming(self, handler: object, places: int) -> None:
        """The loop is about to take jobs, and runs up to `places` at a time."""

    @abstractmethod
    def end_claiming(self, handler: object) -> None:
        """The loop takes no more jobs."""

    @property
    @abstractmethod
    def lets_suspects_pass(self) -> bool:
        """Whether suspects of other loops, which start in this moment, go first."""

    @abstractmethod
    async def take(self, limit: int) -> Sequence[HeldClaim]:
        """Claim up to `limit` jobs; none where there are none, without waiting for any."""

    @abstractmethod
    def join(self, loop: Loop) -> object:
        """Have the loop woken when there may be jobs; returns what `leave` takes."""

    @abstractmethod
    def leave(self, joined: object, *, goes_on: bool) -> None:
        """The loop was woken, and takes jobs if it goes on."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing is pending, as far as is known since `bring_in`."""

    @abstractmethod
    async def bring_in(self) -> None:
        """Make every job of the store pending that may run now."""

    # -- what is held -----------------------------------------------------------------------

    @abstractmethod
    async def load(self, claim: HeldClaim) -> bool:
        """Read a payload that is an object of its own; False if the job cannot be run now."""

    @abstractmethod
    def keep_alive(self, held: Iterable[HeldClaim]) -> None:
        """Renew leases for `lease_ms`, also of jobs that were asked to cancel."""

    @abstractmethod
    def extend(self, claim: HeldClaim, extension_ms: int) -> None:
        """Have a lease last for `extension_ms` from now at least.

        Raises:
            ClaimLost: The job is no longer held.
            CancelRequested: It was asked to cancel.
        """

    @abstractmethod
    def expiry(self, claim: HeldClaim) -> datetime:
        """When a lease expires; raises `ClaimLost`."""

    @abstractmethod
    async def kv_put(self, claim: HeldClaim, key: KvKey, value: bytes) -> None:
        """Write an entry, as long as the job is held; raises `ClaimLost`."""

    # -- ends -------------------------------------------------------------------------------

    @abstractmethod
    async def ack(self, claim: HeldClaim, effects: SettlementEffects | None) -> None:
        """The job is done."""

    @abstractmethod
    async def nack(
        self,
        claim: HeldClaim,
        error: str,
        effects: SettlementEffects | None,
        delay_ms: int | None,
    ) -> bool:
        """The attempt failed; returns whether the job is retried."""

    @abstractmethod
    async def dead_letter(
        self, claim: HeldClaim, reason: str, effects: SettlementEffects | None
    ) -> None:
        """The job failed for good."""

    @abstractmethod
    async def snooze(self, claim: HeldClaim, reason: str, delay_ms: int) -> None:
        """Put the job off without spending its attempt."""

    @abstractmethod
    def release(self, held: Sequence[HeldClaim], why: str) -> Awaitable[None] | None:
        """Give jobs back without spending their attempts; the result tells when that is stored.

        None where nothing was held any longer.
        """

    @abstractmethod
    def lose_process(self, claim: HeldClaim, why: str) -> Awaitable[None] | None:
        """The process that ran the job has ended, and this one has not; as `release`."""


class HasSources(Store):
    """A handle on a store that worker loops may use."""

    @abstractmethod
    def _job_source(self, queue: str, lease_ms: int | None) -> JobSource:
        """The source of a worker loop; `lease_ms` is None for the queue's own."""

    @abstractmethod
    def _note_part(self, part: object, instead_of: object) -> None:
        """A part of the program was made for this handle, which may run another one itself."""

    @property
    @abstractmethod
    def _runners(self) -> dict[str, object]:
        """By queue name: the handler of the runner that has reserved the queue in this process."""

    @abstractmethod
    def _handlers(self, queue: str) -> Iterable[object]:
        """What serves a queue in this process."""

    @property
    @abstractmethod
    def _member_id(self) -> str:
        """The name of this process among the members."""
