"""The methods of a handle, carried out by an owner in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from taquba._interface.claim import Claim
from taquba._line import methods
from taquba._line.client import CallFailed, Disconnected, NotCarriedOut
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


class RemoteClaim(Claim):
    """A claim on a job that an owner in another process holds for this one."""

    __slots__ = ("_lease", "made_by", "token")

    def __init__(self, lease: Lease, made_by: RemoteOwner, token: int) -> None:
        super().__init__(lease.job)
        self._lease = lease
        self.made_by = made_by
        self.token = token

    @property
    def cancel_token(self) -> CancelToken:
        return self._lease.token

    @property
    def lease(self) -> Lease:
        """What this process knows of the hold."""
        return self._lease


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
        self._claims: dict[int, RemoteClaim] = {}
        """Those that the owner at the other end holds for this process, by their tokens."""

    async def call(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Carry out a method of the handle.

        Raises:
            OwnerUnreachable: There is no owner.
            StoreError: The owner ended meanwhile, and may have carried it out.
        """
        claim = arguments.get("claim")
        if (
            name == "lease_expiry"
            and isinstance(claim, RemoteClaim)
            and claim.lease.state == "over"
        ):
            return None
        arguments = {key: self._named(value) for key, value in arguments.items()}
        data = dump_arguments(arguments)
        answer = await self._ask(
            methods.STORE,
            name,
            data,
            again=name in _REPEATABLE,
            late=self._late(name),
            waits=_wait(name, arguments),
        )
        result = load_result(cast("bytes", answer))
        if name == "claim_batch":
            return [self._claimed(cast("list[Any]", one)) for one in cast("list[object]", result)]
        return result

    async def store_id(self) -> str:
        """The id of the store."""
        return cast("str", await self._ask(methods.ABOUT, again=True))

    async def close(self) -> None:
        """Give back what this process holds, and disconnect."""
        if self._claims:
            self._socket.tell(methods.RELEASE, *self._claims)
        await self._socket.close()

    async def _ask(
        self,
        method: str,
        *arguments: object,
        again: bool,
        late: Callable[[object], None] | None = None,
        waits: float = 0,
    ) -> object:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._call_timeout
        pause = _PAUSE_SECONDS
        while True:
            try:
                return await self._socket.call(
                    SLOWEST_ANSWER_SECONDS + waits, method, *arguments, late=late
                )
            except (NoOwner, NotCarriedOut) as error:
                failure: Exception = error
            except TooLarge as error:
                raise InvalidArgument(
                    f"a call carries at most 16 MiB: {error}; store large content as objects, and "
                    "send their names"
                ) from None
            except Disconnected as error:
                if not again:
                    raise StoreError(
                        f"the owner ended during the call, which it may have carried out: {error}"
                    ) from error
                failure = error
            except CallFailed as error:
                if error.kind == TooLarge.__name__:
                    raise InvalidArgument(
                        f"an answer has at most 16 MiB ({error.text}): ask for less at a time, "
                        "or with payloads=False"
                    ) from None
                raise load_error(error.kind, error.state, error.text) from None
            if loop.time() + pause > deadline:
                raise OwnerUnreachable(self._url) from failure
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    # -- claims -----------------------------------------------------------------------------

    def _named(self, value: object) -> object:
        """A claim by its token; any other argument as it is."""
        if not isinstance(value, Claim):
            return value
        if isinstance(value, RemoteClaim) and value.made_by is not self:
            raise InvalidArgument(
                f"the claim on job {value.id!r} belongs to another handle on a store; settle it "
                "with the one that claimed it"
            )
        if not isinstance(value, RemoteClaim) or value.lease.state == "over":
            raise ClaimLost(value.id, "it was settled, or its lease expired and was taken back")
        return [value.token, value.id]

    def _claimed(self, fields: list[Any]) -> RemoteClaim:
        token, record = cast("tuple[int, JobRecord]", fields)
        job = record._job  # pyright: ignore[reportPrivateUsage] - its fields are what was sent
        claim = RemoteClaim(Lease(job, 0), self, token)
        self._claims[token] = claim
        return claim

    def _late(self, name: str) -> Callable[[object], None] | None:
        """What becomes of an answer that nobody waits for; None for a call that goes on."""
        if name == "claim_batch":
            return self._give_back
        return _forget if name in _WAITS else None

    def _give_back(self, answer: object) -> None:
        """Jobs were claimed for a caller that no longer waits."""
        tokens = [one[0] for one in cast("list[Any]", load_result(cast("bytes", answer)))]
        self._socket.tell(methods.RELEASE, *tokens)

    def _told(self, kind: str, fields: list[object]) -> None:
        match kind, fields:
            case methods.CANCELLED, [int() as token]:
                if (claim := self._claims.get(token)) is not None:
                    claim.lease.job = claim.lease.job._replace(cancel_requested=True)
                    claim.lease.fire_token()
            case methods.OVER, [int() as token]:
                if (claim := self._claims.pop(token, None)) is not None:
                    claim.lease.enter("over")
            case _:
                # Of a later version.
                pass

    def _disconnected(self) -> None:
        claims, self._claims = self._claims, {}
        for claim in claims.values():
            claim.lease.enter("over")


def _forget(answer: object) -> None:
    del answer


def _wait(name: str, arguments: Mapping[str, object]) -> float:
    """How many seconds a call may wait for what it asks for."""
    span = arguments.get(_WAITS.get(name, ""))
    if span is None:
        return 0
    return validate.duration_ms(cast("validate.Duration", span), _WAITS[name]) / 1000
