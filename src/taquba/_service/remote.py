"""The methods of a handle, carried out by an owner in another process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from taquba._interface.claim import Claim
from taquba._line import methods
from taquba._line.client import CallFailed, Disconnected, NotCarriedOut, SocketClient
from taquba._line.frames import BrokenFrame, TooLarge
from taquba._line.joining import MemberInfo, NamedJob, dump_named, load_adopted
from taquba._line.remote_owner import NoOwner, OwnerSocket
from taquba._line.tokens import MOST_TOKENS, NotTokens, dump_tokens, load_jobs, load_tokens
from taquba._line.values import dump_arguments, load_error, load_result
from taquba._memory.leases import Lease
from taquba._model import validate
from taquba._model.errors import (
    ClaimLost,
    InvalidArgument,
    OutcomeUnknown,
    OwnerUnreachable,
    TaqubaError,
)
from taquba._model.records import Job, JobRecord
from taquba._objects.location import StoreLocation
from taquba._queue import claims
from taquba._service.held import HeldClaims, MemberClaim

SLOWEST_ANSWER_SECONDS: Final = 35.0
"""Longer than an owner waits for its store."""

_FAREWELL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 0.5

_REPEATABLE: Final = frozenset(
    (
        "stats",
        "members",
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


class Works(Protocol):
    """The part of this process that runs handlers."""

    opens: bool
    """Whether this process is about to become the owner."""

    @property
    def owner(self) -> object:
        """The owner, if it is in this process."""

    @property
    def takes(self) -> bool:
        """Whether worker loops take jobs."""
        ...

    def joined(self) -> None:
        """The current owner knows this process."""

    def arrived(self, number: int, claims: list[MemberClaim]) -> None:
        """Jobs were claimed for a worker loop."""

    def queue_of(self, number: int) -> str | None:
        """The queue of a worker loop; None if it takes no more jobs."""


class MovedHere(Exception):
    """The owner is in this process now, and holds the claims that this process had elsewhere."""


class RemoteOwner:
    """Calls the owner of a store, whichever it is, and waits for one if there is none.

    Args:
        location: Where the store is.
        call_timeout: How many seconds a call waits for an owner.
        about: This process.
    """

    def __init__(self, location: StoreLocation, call_timeout: float, about: MemberInfo) -> None:
        self._url = location.url
        self._socket = OwnerSocket(
            location, self._told, self._disconnected, self._join, self._joined
        )
        self._call_timeout = call_timeout
        self.about = about
        self.claims = HeldClaims()
        self.works: Works | None = None
        self._done: dict[SocketClient, list[_Done]] = {}
        """Jobs that were done in this turn of the event loop, by where they are held."""
        self._sending: set[asyncio.Future[None]] = set()
        self._ended = asyncio.Event()
        """Set whenever a connection has ended."""

    async def call(self, name: str, arguments: Mapping[str, object]) -> Any:
        """Carry out a method of the handle.

        Raises:
            OwnerUnreachable: There is no owner.
            MovedHere: The owner is in this process now.
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

    async def bring_in(self, queue: str) -> bool:
        """Make pending what may run; returns whether nothing of a queue is."""
        _, answer = await self._ask(methods.BRING_IN, queue, again=True)
        return cast("bool", answer)

    async def store_id(self) -> str:
        """The id of the store."""
        _, answer = await self._ask(methods.ABOUT, again=True)
        return cast("str", answer)

    async def stay_connected(self) -> None:
        """Connect whenever there is an owner, until cancelled."""
        pause = _PAUSE_SECONDS
        while True:
            while self.works is not None and self.works.owner is not None:
                self._ended.clear()
                await self._ended.wait()
            try:
                connection = await self._socket.connected()
            except NoOwner:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause = _PAUSE_SECONDS
            while connection.connected:
                self._ended.clear()
                if self.works is None or not self.works.takes:
                    await self._ended.wait()
                    continue
                connection.say(methods.ALIVE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(methods.ALIVE_SECONDS):
                        await self._ended.wait()

    def look_again(self) -> None:
        """The owner in this process has ended: there will be another one."""
        self._ended.set()

    async def close(self) -> None:
        """Give back what this process holds, and disconnect."""
        connection = self._socket.current
        if connection is not None:
            with contextlib.suppress(Disconnected, CallFailed):
                await connection.call(_FAREWELL_SECONDS, methods.BYE)
        await self._socket.close()
        for claim in self.claims.lose_all_but(None):
            self.claims.end(claim)

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
                if method == methods.STORE and self.works and self.works.owner is not None:
                    # A claim is to be held by that one, not by way of its socket.
                    raise MovedHere
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

    # -- connections ------------------------------------------------------------------------

    async def _join(self, connection: SocketClient) -> None:
        """Tell an owner who this process is and what it holds, and learn what of that is its own.

        Raises:
            Disconnected: The owner has gone already.
        """
        if self.works is not None and self.works.opens:
            raise Disconnected("this process is about to become the owner")
        named = self.claims.lose_all_but(connection)
        jobs = [NamedJob.of(claim.lease.job) for claim in named]
        about = self.about.dump()
        try:
            answer = await connection.call(
                SLOWEST_ANSWER_SECONDS, methods.JOIN, about, dump_named(jobs)
            )
        except CallFailed as error:
            raise Disconnected(str(error)) from error
        for claim, adopted in zip(named, load_adopted(answer, len(named)), strict=True):
            if not claim.adrift:
                # The owner is in this process meanwhile.
                continue
            if adopted is None:
                self.claims.end(claim)
                continue
            self.claims.bind(claim, connection, adopted.token)
            if adopted.cancel_requested:
                claim.lease.hear_of_cancel()

    def _joined(self) -> None:
        if self.works is not None:
            self.works.joined()

    def _told(self, connection: SocketClient, kind: str, fields: list[object]) -> None:
        match kind, fields:
            case methods.JOBS, [int() as number, bytes() as jobs]:
                self._take_jobs(connection, number, jobs)
            case methods.CANCELLED, [int() as token]:
                if (claim := self.claims.get(connection, token)) is not None:
                    claim.lease.hear_of_cancel()
            case methods.OVER, [int() as token]:
                if (claim := self.claims.get(connection, token)) is not None:
                    self.claims.hear_over(claim)
            case _:
                # Of a later version.
                pass

    def _take_jobs(self, connection: SocketClient, number: int, data: bytes) -> None:
        works = self.works
        queue = None if works is None else works.queue_of(number)
        try:
            jobs = load_jobs(queue or "", data)
        except NotTokens as error:
            raise BrokenFrame("jobs of an unknown form") from error
        if not jobs:
            return
        if works is None or queue is None:
            # The loop has ended meanwhile.
            tokens = dump_tokens([sent.token for sent in jobs])
            connection.tell(methods.RELEASE, claims.ABANDONED, tokens)
            return
        # Before a handler can block the event loop: if this process hangs, the owner must know
        # which jobs had reached it.
        connection.say(methods.ALIVE, jobs[-1].token)
        works.arrived(number, [self._claimed(connection, *sent) for sent in jobs])

    def _disconnected(self, connection: SocketClient) -> None:
        self.claims.lose(connection)
        self._ended.set()

    def say(self, kind: str, *fields: object) -> None:
        """Say something to the current owner, if there is one elsewhere."""
        connection = self._socket.current
        if connection is not None:
            connection.say(kind, *fields)

    # -- claims -----------------------------------------------------------------------------

    async def _claim(self, data: bytes, waits: float) -> list[MemberClaim]:
        connection, answer = await self._ask(
            methods.STORE, "claim_batch", data, again=True, late=_give_back, waits=waits
        )
        found = [
            self._claimed(connection, token, record._job)  # pyright: ignore[reportPrivateUsage] - its fields are what was sent
            for token, record in _handed_out(answer)
        ]
        if not connection.connected:
            # Its end was told before this.
            self._disconnected(connection)
        return found

    def _claimed(self, connection: SocketClient, token: int, job: Job) -> MemberClaim:
        lease = Lease(job, 0)
        lease.enter("held")
        claim = MemberClaim(lease, self)
        self.claims.bind(claim, connection, token)
        return claim

    async def _settle(self, name: str, claim: Claim, arguments: Mapping[str, object]) -> Any:
        """Carry out a method about a claim, where it is held."""
        if isinstance(claim, MemberClaim) and claim.handle is not self:
            raise InvalidArgument(
                f"the claim on job {claim.id!r} belongs to another handle on a store; settle it "
                "with the one that claimed it"
            )
        if not isinstance(claim, MemberClaim) or claim.lease.state == "over":
            if name == "lease_expiry":
                return None
            raise ClaimLost(claim.id, claims.SETTLED)
        deadline = asyncio.get_running_loop().time() + self._call_timeout
        return await self.about_claim(claim, partial(by_method, name, claim, arguments), deadline)

    async def about_claim(
        self, claim: MemberClaim, call: Callable[[], list[Any]], deadline: float | None = None
    ) -> Any:
        """Make a call about a claim at the owner that holds it, or else at the next one.

        Args:
            claim: The claim.
            call: The method and its arguments, as of now.
            deadline: How long to wait for an owner, in seconds of the event loop.

        Raises:
            ClaimLost: The job is no longer held.
            MovedHere: The claim is held by an owner in this process now.
            StoreError: The owner ended during the call, and the claim with it, so that it is
                unknown whether the call was carried out.
        """
        interrupted: Disconnected | None = None
        while True:
            await self.until_bound(claim, deadline)
            if claim.owner is not None:
                raise MovedHere
            if claim.connection is None:
                if interrupted is not None:
                    raise _unknown(interrupted) from interrupted
                raise ClaimLost(claim.id, claims.SETTLED)
            connection = claim.connection
            try:
                return await self._ask_about(claim, connection, call())
            except NotCarriedOut:
                pass
            except Disconnected as error:
                interrupted = error
            # Should the next owner still hold it for this process, it was not carried out.
            if claim.connection is connection:
                self.claims.cast_adrift(claim)

    async def _ask_about(
        self, claim: MemberClaim, connection: SocketClient, call: list[Any]
    ) -> Any:
        """The answer of the owner that holds a claim; raises its error, or `Disconnected`."""
        claim.asking += 1
        answered = True
        try:
            answer = await self._call_on(connection, 0, None, *call)
        except Disconnected:
            answered = False
            raise
        finally:
            claim.asking -= 1
            if answered:
                self.claims.answered(claim)
        return None if answer is None else load_result(cast("bytes", answer))

    async def until_bound(self, claim: MemberClaim, deadline: float | None = None) -> None:
        """Wait until an owner has said whether a claim is this process's own.

        Raises:
            OwnerUnreachable: There is no owner.
        """
        loop = asyncio.get_running_loop()
        while claim.adrift and claim.lease.state != "over":
            try:
                await self._socket.connected()
            except Disconnected as failure:
                if deadline is not None and loop.time() + _PAUSE_SECONDS > deadline:
                    raise OwnerUnreachable(self._url) from failure
                await asyncio.sleep(_PAUSE_SECONDS)

    async def done(self, claim: MemberClaim) -> None:
        """Acknowledge a job, together with others that are done in this turn of the event loop.

        Raises:
            Disconnected: The owner that held it has ended.
            ClaimLost: The job was no longer held.
        """
        connection = claim.connection
        assert connection is not None
        batch = self._done.get(connection)
        if batch is None:
            batch = self._done[connection] = []
            asyncio.get_running_loop().call_soon(self._send_done, connection)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.append(_Done(claim, settled))
        await settled

    def _send_done(self, connection: SocketClient) -> None:
        batch = self._done.pop(connection)
        for start in range(0, len(batch), MOST_TOKENS):
            sending = asyncio.ensure_future(
                self._settle_done(connection, batch[start : start + MOST_TOKENS])
            )
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _settle_done(self, connection: SocketClient, batch: list[_Done]) -> None:
        tokens = [one.claim.token for one in batch]
        try:
            answer = await self._call_on(connection, 0, None, methods.DONE, dump_tokens(tokens))
            lost = set(load_tokens(answer))
        except (Disconnected, TaqubaError, NotTokens) as error:
            for one in batch:
                one.refuse(error)
            return
        for one, token in zip(batch, tokens, strict=True):
            self.claims.end(one.claim)
            if token in lost:
                one.refuse(ClaimLost(one.claim.id, claims.SETTLED))
            elif not one.settled.done():
                one.settled.set_result(None)

    def release(self, held: Iterable[MemberClaim], why: str) -> asyncio.Future[None] | None:
        """Give claims back without spending their attempts."""
        given = [claim for claim in held if claim.lease.state == "held"]
        calls = [
            self._give_up(connection, methods.RELEASE, why, dump_tokens(tokens))
            for connection, tokens in _tokens_at(given).items()
        ]
        for claim in given:
            self.claims.end(claim)
        return _together(calls) if calls else None

    def lose_process(self, claim: MemberClaim, why: str) -> asyncio.Future[None] | None:
        """The child process that ran a job has ended."""
        connection, token = claim.connection, claim.token
        if claim.lease.state != "held" or connection is None:
            return None
        self.claims.end(claim)
        return _together([self._give_up(connection, methods.LOST, token, why)])

    async def _give_up(self, connection: SocketClient, *call: Any) -> None:
        try:
            await self._call_on(connection, 0, None, *call)
        except Disconnected as error:
            raise _unknown(error) from error

    def renew(self, held: Iterable[MemberClaim], lease_ms: int) -> None:
        """Say that jobs are worked on."""
        for connection, tokens in _tokens_at(held).items():
            for start in range(0, len(tokens), MOST_TOKENS):
                some = dump_tokens(tokens[start : start + MOST_TOKENS])
                connection.say(methods.RENEW, lease_ms, some)


class _Done(NamedTuple):
    """A job that is done, and who waits until that is stored."""

    claim: MemberClaim
    settled: asyncio.Future[None]

    def refuse(self, error: BaseException) -> None:
        if not self.settled.done():
            self.settled.set_exception(error)
            # A caller that was cancelled does not collect its error.
            self.settled.exception()


def by_method(name: str, claim: MemberClaim, arguments: Mapping[str, object]) -> list[Any]:
    """The call of a method of the handle that is about a claim, wherever that is held now."""
    data = dump_arguments({**arguments, "claim": [claim.token, claim.id]})
    return [methods.STORE, name, data]


def _tokens_at(held: Iterable[MemberClaim]) -> dict[SocketClient, list[int]]:
    """The names of claims that are held elsewhere, by where."""
    at: dict[SocketClient, list[int]] = {}
    for claim in held:
        if claim.connection is not None:
            at.setdefault(claim.connection, []).append(claim.token)
    return at


def _together(calls: Sequence[Coroutine[Any, Any, None]]) -> asyncio.Future[None]:
    """Calls whose answers somebody may wait for, or nobody."""
    together = asyncio.ensure_future(_all(calls))
    together.add_done_callback(lambda done: done.cancelled() or done.exception())
    return together


async def _all(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*calls)


def _handed_out(answer: object) -> list[tuple[int, JobRecord]]:
    """The tokens and the records of jobs that were claimed."""
    return cast("list[tuple[int, JobRecord]]", load_result(cast("bytes", answer)))


def _unknown(error: Disconnected) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the owner ended during the call, which it may have carried out: {error}"
    )


def _give_back(connection: SocketClient, answer: object) -> None:
    """Jobs were claimed for a caller that no longer waits."""
    tokens = dump_tokens([token for token, _ in _handed_out(answer)])
    connection.tell(methods.RELEASE, claims.ABANDONED, tokens)


def _forget(connection: SocketClient, answer: object) -> None:
    del connection, answer


def _wait(name: str, arguments: Mapping[str, object]) -> float:
    """How many seconds a call may wait for what it asks for."""
    span = arguments.get(_WAITS.get(name, ""))
    if span is None:
        return 0
    return validate.duration_ms(cast("validate.Duration", span), _WAITS[name]) / 1000
