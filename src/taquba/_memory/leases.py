"""Leases: who holds which job, until when. Process memory only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal, Protocol

from taquba._memory.callbacks import call_all, call_soon
from taquba._model.options import SettlementEffects
from taquba._model.records import Job


class CancelToken:
    """Notifies a handler that its job was asked to cancel. Fires once and stays fired."""

    __slots__ = ("_callbacks", "_cancelled", "_event")

    def __init__(self, cancelled: bool = False) -> None:
        self._cancelled = cancelled
        self._event: asyncio.Event | None = None
        self._callbacks: list[Callable[[], None]] | None = None

    @property
    def cancelled(self) -> bool:
        """True once cancellation was requested."""
        return self._cancelled

    async def wait(self) -> None:
        """Wait until cancellation is requested."""
        if not self._cancelled:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Register a callback that the event loop calls when cancellation is or was requested.

        Call this from the event loop. The callback may be called after the handler has ended.
        """
        if self._cancelled:
            call_soon((callback,))
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _fire(self, job: Job) -> None:
        self._cancelled = True
        if self._event is not None:
            self._event.set()
        callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            call_soon(callbacks, job)


LeaseState = Literal["claiming", "held", "settling", "over"]
"""The state of a lease between claim and settlement.

- ``claiming``: the claim is decided, and its caller waits until it is written.
- ``held``: somebody works on the job. A worker loop does not wait for the write, only for its
  place.
- ``settling``: a settlement or a take-back is decided, its write not yet applied.
- ``over``: settled, taken back, or never written.
"""


class WaitingCall(Protocol):
    """The call of a plain function, which may have to wait for a thread or a process."""

    def withdraw(self) -> None:
        """Take it back if it still waits."""

    def waited_ms(self) -> int:
        """How long it has waited so far, or waited in total."""
        ...


class Elsewhere(Protocol):
    """A process that holds leases of the owner in another process."""

    def asked_to_cancel(self, lease: Lease) -> None:
        """The job of a lease is asked to cancel."""

    def over(self, lease: Lease) -> None:
        """A lease is over."""

    def expires(self, lease: Lease) -> bool:
        """A lease has expired; returns whether the process may have begun with its job."""
        ...


class Lease:
    """One claim's hold on its job."""

    __slots__ = (
        "_landed",
        "_token",
        "again",
        "call",
        "expires_at",
        "holder",
        "job",
        "number",
        "on_over",
        "state",
    )

    def __init__(self, job: Job, expires_at: int) -> None:
        self.job = job
        self.expires_at = expires_at
        """Monotonic ms."""
        self.state: LeaseState = "claiming"
        self._token: CancelToken | None = None
        self._landed: asyncio.Future[None] | None = None
        self.on_over: list[Callable[[], None]] = []
        """Called once, by the event loop, when the state is `over`."""
        self.call: WaitingCall | None = None
        """The call that does the job's work, if that is a plain function."""
        self.again: Callable[[], Awaitable[SettlementEffects | None]] | None = None
        """Decides anew how the job ends, when the store has changed meanwhile."""
        self.holder: Elsewhere | None = None
        """The process that holds it, if that is not the owner's."""
        self.number = 0
        """Its name between the two processes."""

    @property
    def token(self) -> CancelToken:
        if self._token is None:
            self._token = CancelToken(self.job.cancel_requested)
        return self._token

    def fire_token(self) -> None:
        """The request to cancel is written: notify the handler."""
        if self.holder is not None:
            self.holder.asked_to_cancel(self)
        if self._token is not None:
            self._token._fire(self.job)  # pyright: ignore[reportPrivateUsage] - the token is the read side of this lease

    def hear_of_cancel(self) -> None:
        """Its owner knows of a request to cancel, which is perhaps still on its way to here."""
        self.job = self.job._replace(cancel_requested=True)
        self.fire_token()

    def landed(self) -> asyncio.Future[None]:
        """Done when a claim or settlement in flight has been applied."""
        if self._landed is None:
            self._landed = asyncio.get_running_loop().create_future()
        return self._landed

    def enter(self, state: LeaseState) -> None:
        self.state = state
        if state == "over":
            # It refers to this lease, and would keep it until garbage is collected.
            self.again = None
        if self._landed is not None and state != "settling":
            if not self._landed.done():
                self._landed.set_result(None)
            self._landed = None


class LeaseRegistry:
    """All leases of an open store, by job id."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._of: dict[str | None, int] = {}
        """How many leases each process holds that holds any."""
        self.on_quiet: Callable[[str | None], None] | None = None
        """Called when the last lease of a process is over."""
        self._over: deque[Lease] = deque()
        """Leases that are over, and have callbacks that were not called yet."""

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, job_id: str) -> Lease | None:
        return self._leases.get(job_id)

    def add(self, lease: Lease) -> None:
        """A lease begins, or takes the place of one of the same claim."""
        job = lease.job
        if job.id not in self._leases:
            self._of[job.worker] = self._of.get(job.worker, 0) + 1
        self._leases[job.id] = lease

    def holds_any(self, worker: str | None) -> bool:
        """Whether a process holds a lease."""
        return worker in self._of

    def holds(self, lease: Lease) -> bool:
        return self._leases.get(lease.job.id) is lease

    def drop(self, lease: Lease) -> None:
        worker = lease.job.worker
        held = self.holds(lease)
        if held:
            del self._leases[lease.job.id]
            self._of[worker] -= 1
        lease.enter("over")
        if lease.holder is not None:
            lease.holder.over(lease)
        if lease.on_over:
            # The writer of the store calls this, and it must not run code of users. A commit ends
            # many leases: one call of the event loop does for all.
            if not self._over:
                asyncio.get_running_loop().call_soon(self._call_over)
            self._over.append(lease)
        if held and not self._of[worker]:
            del self._of[worker]
            if self.on_quiet is not None:
                self.on_quiet(worker)

    def _call_over(self) -> None:
        try:
            while self._over:
                lease = self._over.popleft()
                callbacks, lease.on_over = lease.on_over, []
                call_all(callbacks, lease.job)
        finally:
            if self._over:
                # One has ended the program, which the others are still told of.
                asyncio.get_running_loop().call_soon(self._call_over)

    def expired(self, now: int) -> list[Lease]:
        return [
            lease
            for lease in self._leases.values()
            if lease.expires_at <= now and lease.state == "held"
        ]

    def next_expiry(self) -> int | None:
        """When the first lease expires, in monotonic ms."""
        return min((lease.expires_at for lease in self._leases.values()), default=None)
