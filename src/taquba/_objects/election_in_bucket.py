"""Elections in a bucket: a lease object that its holder renews by conditional writes.

No clocks are compared. A candidate watches the object for the whole period, by its own monotonic
clock: if the object has not changed meanwhile, its holder has died, or cannot reach the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from obstore.exceptions import AlreadyExistsError, PreconditionError
from ulid import ULID

from taquba._model.clock import SystemClock
from taquba._model.codec import UNREADABLE
from taquba._objects.client import Client
from taquba._objects.election import Election
from taquba._objects.holder_text import describe_this_process
from taquba._objects.location import StoreLocation
from taquba._objects.places import SERVING, Complaints, Place
from taquba._objects.problems import Problem
from taquba._objects.repeating import PAUSES

if TYPE_CHECKING:
    # Exists for type checkers only.
    from obstore import UpdateVersion

    Mode = Literal["create"] | UpdateVersion

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_LEASE: Final = "election.json"
TAKEOVER_SECONDS: Final = "takeover_seconds"
"""The member of a lease object that says after how long without a sign others take it over."""

_SIGNS_PER_TAKEOVER: Final = 3
_RESIGN_ATTEMPTS: Final = 3


class Seen(NamedTuple):
    """The lease object as it was read.

    Attributes:
        version: Changes with every write.
        holder: The holder of the lease; None if it was given back.
        content: What it says.
        written: When it was written, by the clock of the store.
    """

    version: UpdateVersion
    holder: str | None
    content: bytes = b""
    written: datetime | None = None


_UNREADABLE: Final = ""
"""The holder of a lease object that is not one."""


class Watch:
    """Decides when a lease may be taken over, from what one candidate has seen of it."""

    def __init__(self, takeover_seconds: float) -> None:
        self._takeover_seconds = takeover_seconds
        self._version: UpdateVersion | None = None
        self._since = 0.0

    def may_take(self, seen: Seen, now: float) -> bool:
        """Whether the lease that was read just now may be taken.

        Args:
            seen: The lease object.
            now: Seconds on a monotonic clock of this process, before the object was asked for.
        """
        if seen.holder is None:
            return True
        if seen.version != self._version:
            self._version = seen.version
            self._since = now
            return False
        return now - self._since >= self._takeover_seconds


class BucketElection(Election):
    """The process that holds the lease is elected."""

    def __init__(self, location: StoreLocation, takeover_seconds: float) -> None:
        self._location = location
        self._takeover_seconds = takeover_seconds
        self._pause = takeover_seconds / _SIGNS_PER_TAKEOVER
        self._holder = str(ULID())
        self._since_ms = 0
        self._signs = 0
        self._client: Client | None = None
        self._version: UpdateVersion | None = None
        """The lease object that this process wrote last, while it holds the lease."""
        self._renewing: asyncio.Task[None] | None = None
        self._complaints = Complaints()

    async def win(self) -> None:
        watch = Watch(self._takeover_seconds)
        while not await self._try_to_win(watch):  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(self._pause)
        self._renewing = asyncio.create_task(self._renew(), name="taquba-election")

    async def lost(self) -> None:
        assert self._renewing is not None
        await asyncio.shield(self._renewing)

    async def resign(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None
        with contextlib.suppress(Problem):
            # A renewal whose answer was not waited for may have come in between.
            for _ in range(_RESIGN_ATTEMPTS):
                if self._version is None or await self._write(self._version, holder=None):
                    break
                await self._find_own()
        self._version = None

    async def _try_to_win(self, watch: Watch) -> bool:
        try:
            won = await self._stand(watch)
        except Problem as problem:
            error = problem.as_error(self._location)
            if Place(self._location).gives_up(error):
                raise error from problem
            self._complain("cannot stand for election: %s", problem)
            return False
        self._complaints.clear()
        if not won:
            Place(self._location).note(SERVING)
        return won

    async def _stand(self, watch: Watch) -> bool:
        now = asyncio.get_running_loop().time()
        self._since_ms = SystemClock().time_ms()
        seen = await self._read()
        if seen is None:
            return await self._write("create", self._holder)
        if seen.holder == self._holder:
            # It was taken by a write whose answer got lost.
            self._version = seen.version
            return True
        return watch.may_take(seen, now) and await self._write(seen.version, self._holder)

    async def _renew(self) -> None:
        """Give signs of life until somebody else holds the lease."""
        while self._version is not None:
            await asyncio.sleep(self._pause)
            try:
                if not await self._write(self._version, self._holder):
                    await self._find_own()
            except Problem as problem:
                # Whether others can see more than this process does, they decide by themselves.
                self._complain("cannot renew the lease on %s: %s", self._location.url, problem)
            else:
                self._complaints.clear()

    async def _find_own(self) -> None:
        """A write was refused: by one of this process whose answer got lost, or by a successor.

        If no lease is found, this process is still the last one that is known to have held it.
        """
        seen = await self._read()
        for pause in PAUSES:
            # A read may come out wrongly, and not what is stored.
            if seen is None or seen.holder != _UNREADABLE:
                break
            await asyncio.sleep(min(pause, self._pause))
            seen = await self._read()
        if seen is not None:
            self._version = seen.version if seen.holder == self._holder else None
        elif await self._is_gone():
            await self._write("create", self._holder)

    async def _is_gone(self) -> bool:
        """Whether a lease that was not found is not found again."""
        for pause in PAUSES:
            await asyncio.sleep(min(pause, self._pause))
            if await self._read() is not None:
                return False
        return True

    def _complain(self, message: str, *what: object) -> None:
        if self._complaints.due(asyncio.get_running_loop().time()):
            _log.warning(message, *what)

    async def _read(self) -> Seen | None:
        client = await self._connect()
        return await self._ask(client, "read", lambda: read_lease(client))

    async def _write(self, mode: Mode, holder: str | None) -> bool:
        """Write the lease object, if it is still the one that was seen; returns whether it was."""
        client = await self._connect()
        self._signs += 1
        # The count makes every content, and so its tag, differ. The process is for people.
        lease = {
            "holder": holder,
            "signs": self._signs,
            TAKEOVER_SECONDS: self._takeover_seconds,
            **describe_this_process(self._since_ms),
        }
        content = json.dumps(lease).encode()
        written = await self._ask(client, "write", lambda: _write(client, content, mode))
        if written is not None:
            self._version = written
        return written is not None

    async def _ask(self, client: Client, action: str, request: Callable[[], Awaitable[T]]) -> T:
        # An answer that takes longer than others wait for a sign of life is useless.
        return await client.ask(action, request, self._takeover_seconds / 2)

    async def _connect(self) -> Client:
        if self._client is None:
            self._client = await Client.connect(self._location)
        return self._client


async def read_lease(client: Client) -> Seen | None:
    """The lease object in a bucket; None if there is none."""
    try:
        found = await client.store.get_async(_LEASE)
        content = bytes(await found.bytes_async())
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(content)["holder"]
    except UNREADABLE:
        # Whatever wrote it does not renew it.
        holder = _UNREADABLE
    version = _version(found.meta["e_tag"], found.meta["version"])
    return Seen(version, holder, content, found.meta["last_modified"])


async def _write(client: Client, content: bytes, mode: Mode) -> UpdateVersion | None:
    try:
        written = await client.store.put_async(_LEASE, content, mode=mode)
    except (AlreadyExistsError, PreconditionError):
        return None
    except FileNotFoundError:
        if mode == "create":
            # The bucket itself is missing.
            raise
        return None
    return _version(written["e_tag"], written["version"])


def _version(e_tag: str | None, version: str | None) -> UpdateVersion:
    # A field that is None would be taken for a condition.
    return {"e_tag": e_tag} if version is None else {"e_tag": e_tag, "version": version}
