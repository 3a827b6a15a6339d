"""The lease as a handler sees it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from datetime import datetime
from typing import Final

from taquba._interface.claim import HeldClaim, lease_of
from taquba._interface.store import Store
from taquba._memory.callbacks import call_soon
from taquba._memory.leases import CancelToken, WaitingCall
from taquba._model import validate
from taquba._model.errors import ClaimLost, InvalidArgument
from taquba._model.options import SettlementEffects
from taquba._model.validate import Duration, KvKey
from taquba._worker.source import JobSource

_LOOK_SECONDS: Final = 1.0


def _nothing() -> None:
    """Do nothing: scheduling this on a closed loop raises, which is its purpose."""


class LeaseHandle:
    """A running handler's hold on its job.

    It can be used in an async handler and in a plain handler in a worker thread. A handler in
    another process gets a detached handle, which extends nothing; there the worker loop renews the
    lease.
    """

    __slots__ = ("_claim", "_source", "_thread", "_token")

    def __init__(self, source: JobSource | None, claim: HeldClaim | None) -> None:
        """Internal: worker loops make these; unit tests use `LeaseHandle.detached`."""
        self._source = source
        self._claim = claim
        self._thread = threading.get_ident()
        self._token = CancelToken() if claim is None else None

    @classmethod
    def detached(cls) -> LeaseHandle:
        """Return a handle without a job, to call a handler in a unit test; it never expires."""
        return cls(None, None)

    def __reduce__(self) -> tuple[object, ...]:
        return (LeaseHandle.detached, ())

    @property
    def cancel_token(self) -> CancelToken:
        """Fires when the job is asked to cancel."""
        if self._token is not None:
            return self._token
        return self._held_claim().cancel_token

    @property
    def store(self) -> Store:
        """The handle on the store under which the handler runs, in whichever process.

        Raises:
            InvalidArgument: The handle is detached: it has no store.
        """
        if self._source is None:
            raise InvalidArgument(
                "a detached lease has no store: pass the handler what it needs, or run it in the "
                "process of a worker loop"
            )
        return self._source.store

    @property
    def expires_at(self) -> datetime | None:
        """When the lease expires; None for a detached handle."""
        if self._source is None:
            return None
        return self._source.expiry(self._held_claim())

    def ensure_at_least(self, duration: Duration) -> None:
        """Extend the lease, if necessary, to `duration` seconds from now; never shortens it.

        It does not wait for anything, so it lets nothing else run: an async handler that loops,
        catches every exception and calls only this blocks the event loop.

        Raises:
            ClaimLost: The job was taken back; stop working on it.
            CancelRequested: The job was asked to cancel.
        """
        extension_ms = validate.duration_ms(duration, "duration")
        if self._source is None:
            return
        if threading.get_ident() == self._thread:
            self._extend(extension_ms)
        else:
            self._extend_from_thread(extension_ms)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Register a callback that the event loop calls when the hold on the job is over.

        The job was then settled, given back or taken back: the handler's decision is applied, or
        never will be. Exceptions of the callback are logged. Call this from the event loop; the
        hold of a detached handle does not end.
        """
        if self._source is None:
            return
        lease = lease_of(self._held_claim())
        if lease.state == "over":
            call_soon((callback,), lease.job)
        else:
            lease.on_over.append(callback)

    def decides_again(self, decide: Callable[[], Awaitable[SettlementEffects | None]]) -> None:
        """Have the end of the job decided anew where its settlement is refused.

        That is where an entry is not as `SettlementEffects.kv_expected` says, or where the job was
        asked to cancel and the effects were `unless_cancelled`. The handler does not run again:
        `decide` is awaited instead, as often as necessary, and returns or raises what the handler
        would. Without it such a refusal is a failed attempt.

        Args:
            decide: Reads the entries again. Register it last: another handler's replaces it.
        """
        if self._source is not None:
            lease_of(self._held_claim()).again = decide

    def _extend_from_thread(self, extension_ms: int) -> None:
        """Let the event loop extend the lease; callable from any thread of any pool."""
        assert self._source is not None
        loop = self._source.loop
        extended: Future[None] = Future()

        def extend() -> None:
            try:
                self._extend(extension_ms)
            except Exception as error:
                extended.set_exception(error)
            else:
                extended.set_result(None)

        try:
            loop.call_soon_threadsafe(extend)
            # A loop that ended in this moment no longer answers.
            while not wait((extended,), _LOOK_SECONDS).done:
                loop.call_soon_threadsafe(_nothing)
        except RuntimeError:
            raise ClaimLost(
                self._held_claim().id, "the event loop of its queue has ended"
            ) from None
        extended.result()

    def _extend(self, extension_ms: int) -> None:
        assert self._source is not None
        self._source.extend(self._held_claim(), extension_ms)

    def _held_claim(self) -> HeldClaim:
        assert self._claim is not None
        return self._claim


async def put_while_held(handle: LeaseHandle, key: KvKey, value: bytes) -> None:
    """Write an entry; durable on return. Nothing is written once the handle's job is not held.

    So what a handler writes never lands behind the writes of another that was given its job, also
    where the owner of the store is another one by then.

    Args:
        handle: The handler's hold on its job; not a detached one.
        key: The entry.
        value: At most `MAX_KV_VALUE_SIZE` bytes.

    Raises:
        ClaimLost: The job was taken back.
    """
    assert handle._source is not None  # pyright: ignore[reportPrivateUsage] - a part of the handle
    await handle._source.kv_put(handle._held_claim(), key, value)  # pyright: ignore[reportPrivateUsage]


def set_call(handle: LeaseHandle, call: WaitingCall) -> None:
    """Record the call that does the work of a handle's job; a detached handle has no job."""
    claim = handle._claim  # pyright: ignore[reportPrivateUsage] - a part of the handle
    if claim is not None:
        lease_of(claim).call = call


def runs_alone(handle: LeaseHandle) -> bool:
    """Whether nothing runs beside a handle's job."""
    claim = handle._claim  # pyright: ignore[reportPrivateUsage] - a part of the handle
    if claim is None:
        return False
    suspicion = lease_of(claim).job.suspicion
    return suspicion is not None and suspicion.alone


def call_of(handle: LeaseHandle) -> WaitingCall | None:
    claim = handle._claim  # pyright: ignore[reportPrivateUsage] - a part of the handle
    return None if claim is None else lease_of(claim).call
