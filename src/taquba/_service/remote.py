"""The methods of a handle, carried out by an owner in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

from taquba._interface.claim import Claim
from taquba._line import methods
from taquba._line.client import CallFailed, Disconnected, NotCarriedOut, SocketClient
from taquba._line.frames import TooLarge
from taquba._line.remote_owner import NoOwner, OwnerSocket
from taquba._line.values import dump_arguments, load_error, load_result
from taquba._memory.leases import CancelToken, Lease
from taquba._model import validate
from taquba._model.errors import ClaimLost, InvalidArgument, OwnerUnreachable, StoreError
from taquba._model.records import JobRecord
from taquba._objects.location import StoreLocation

SLOWEST_ANSWER_SECONDS: Final = 35.0
"""Longer than an owner waits for its store."""

_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 0.5

_REPEATABLE: Final = frozenset(
    (
        "stats",
        "list_queues",
        "get_job",
        "list_jobs",
        "attempt_history",
        "kv_get",
        "kv_put",
        "kv_delete",
        "kv_scan",
        "inbox_stats",
        "rejected_batches",
        "wait_for_completion",
        "wait_for_jobs_on",
        "claim_batch",
    )
)
"""Carried out a second time they change nothing more, or nobody has what the first one changed."""

_WAITS: Final = {
    "wait_for_completion": "timeout",
    "wait_for_jobs_on": "timeout",
    "claim_batch": "wait",
}
"""Methods that wait, and the argument that says how long."""


Late = Callable[[SocketClient, object], None]
"""Given an answer that comes when nobody waits for it any longer, and where it came from."""


class RemoteClaim(Claim):
    """A claim on a job that an owner in another process holds for this one.

    Args:
        lease: What this process knows of the hold.
        made_by: What called the owner.
        connection: For which the owner holds it.
        token: Its name there.
    """

    __slots__ = ("connection", "lease", "made_by", "token")

    def __init__(
        self, lease: Lease, made_by: RemoteOwner, connection: SocketClient, token: int
    ) -> None:
        super().__init__(lease.job)
        self.lease = lease
        self.made_by = made_by
        self.connection = connection
        self.token = token

    @property
    def cancel_token(self) -> CancelToken:
        return self.lease.token


class RemoteOwner:
    """Calls the owner of a store, whichever it is, and waits for one if there is none.

    Args:
        location: Where the store is.
        call_timeout: How many seconds a call waits for an owner.
    """

    def __init__(self, location: StoreLocation, call_timeout: float) -> None:
        self._url = location.url
        self._socket = OwnerSocket(location, self._told, self._disconnected)
        self._call_timeout = call_timeout
        self._claims: dict[SocketClient, dict[int, RemoteClaim]] = {}
        """Those that an owner holds for this process, by connection and token."""

    async def call(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Carry out a method of the handle.

        Raises:
            OwnerUnreachable: There is no owner.
            StoreError: The owner ended meanwhile, and may have carried it out.
        """
        claim = arguments.get("claim")
        if isinstance(claim, Claim):
            return await self._settle(name, claim, arguments)
        data = dump_arguments(arguments)
        if name == "claim_batch":
            return await self._claim(data, _wait(name, arguments))
        again = name in _REPEATABLE
        late = _forget if name in _WAITS else None
        _, answer = await self._ask(
            methods.STORE, name, data, again=again, late=late, waits=_wait(name, arguments)
        )
        return load_result(cast("bytes", answer))

    async def store_id(self) -> str:
        """The id of the store."""
        _, answer = await self._ask(methods.ABOUT, again=True)
        return cast("str", answer)

    async def close(self) -> None:
        """Give back what this process holds, and disconnect."""
        for connection, held in self._claims.items():
            connection.tell(methods.RELEASE, *held)
        await self._socket.close()

    async def _ask(
        self,
        method: str,
        *arguments: object,
        again: bool,
        late: Late | None = None,
        waits: float = 0,
    ) -> tuple[SocketClient, object]:
        """The answer of the current owner, and the connection on which it came."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._call_timeout
        pause = _PAUSE_SECONDS
        while True:
            try:
                connection = await self._socket.connected()
                return connection, await self._call_on(connection, waits, late, method, *arguments)
            except (NoOwner, NotCarriedOut) as error:
                failure: Exception = error
            except Disconnected as error:
                if not again:
                    raise _unknown(error) from error
                failure = error
            if loop.time() + pause > deadline:
                raise OwnerUnreachable(self._url) from failure
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _call_on(
        self,
        connection: SocketClient,
        waits: float,
        late: Late | None,
        method: str,
        *arguments: object,
    ) -> object:
        """Call the owner at the other end of a connection; raises its error."""
        seconds = SLOWEST_ANSWER_SECONDS + waits
        told = None if late is None else partial(late, connection)
        try:
            return await self._socket.call_on(connection, seconds, method, *arguments, late=told)
        except TooLarge as error:
            raise InvalidArgument(
                f"a call carries at most 16 MiB: {error}; store large content as objects, and "
                "send their names"
            ) from None
        except CallFailed as error:
            if error.kind == TooLarge.__name__:
                raise InvalidArgument(
                    f"an answer has at most 16 MiB ({error.text}): ask for less at a time, "
                    "or with payloads=False"
                ) from None
            raise load_error(error.kind, error.state, error.text) from None

    # -- claims -----------------------------------------------------------------------------

    async def _claim(self, data: bytes, waits: float) -> list[RemoteClaim]:
        connection, answer = await self._ask(
            methods.STORE, "claim_batch", data, again=True, late=_give_back, waits=waits
        )
        found = [self._claimed(connection, token, record) for token, record in _handed_out(answer)]
        if connection.ended:
            # Its end was told before this.
            self._disconnected(connection)
        return found

    def _claimed(self, connection: SocketClient, token: int, record: JobRecord) -> RemoteClaim:
        job = record._job  # pyright: ignore[reportPrivateUsage] - its fields are what was sent
        claim = RemoteClaim(Lease(job, 0), self, connection, token)
        self._claims.setdefault(connection, {})[token] = claim
        return claim

    async def _settle(self, name: str, claim: Claim, arguments: Mapping[str, object]) -> Any:
        """Carry out a method about a claim, where it is held."""
        if isinstance(claim, RemoteClaim) and claim.made_by is not self:
            raise InvalidArgument(
                f"the claim on job {claim.id!r} belongs to another handle on a store; settle it "
                "with the one that claimed it"
            )
        if not isinstance(claim, RemoteClaim) or claim.lease.state == "over":
            if name == "lease_expiry":
                return None
            raise ClaimLost(claim.id, "it was settled, or its lease expired and was taken back")
        data = dump_arguments({**arguments, "claim": [claim.token, claim.id]})
        try:
            answer = await self._call_on(claim.connection, 0, None, methods.STORE, name, data)
        except NotCarriedOut:
            raise ClaimLost(claim.id, "the owner that held it has ended") from None
        except Disconnected as error:
            raise _unknown(error) from error
        return load_result(cast("bytes", answer))

    def _told(self, connection: SocketClient, kind: str, fields: list[object]) -> None:
        held = self._claims.get(connection, {})
        match kind, fields:
            case methods.CANCELLED, [int() as token]:
                if (claim := held.get(token)) is not None:
                    claim.lease.job = claim.lease.job._replace(cancel_requested=True)
                    claim.lease.fire_token()
            case methods.OVER, [int() as token]:
                if (claim := held.pop(token, None)) is not None:
                    claim.lease.enter("over")
            case _:
                # Of a later version.
                pass

    def _disconnected(self, connection: SocketClient) -> None:
        for claim in self._claims.pop(connection, {}).values():
            claim.lease.enter("over")


def _handed_out(answer: object) -> list[tuple[int, JobRecord]]:
    """The tokens and the records of jobs that were claimed."""
    return cast("list[tuple[int, JobRecord]]", load_result(cast("bytes", answer)))


def _unknown(error: Disconnected) -> StoreError:
    return StoreError(f"the owner ended during the call, which it may have carried out: {error}")


def _give_back(connection: SocketClient, answer: object) -> None:
    """Jobs were claimed for a caller that no longer waits."""
    connection.tell(methods.RELEASE, *(token for token, _ in _handed_out(answer)))


def _forget(connection: SocketClient, answer: object) -> None:
    del connection, answer


def _wait(name: str, arguments: Mapping[str, object]) -> float:
    """How many seconds a call may wait for what it asks for."""
    span = arguments.get(_WAITS.get(name, ""))
    if span is None:
        return 0
    return validate.duration_ms(cast("validate.Duration", span), _WAITS[name]) / 1000
