"""The calls that producers make through the owner's socket."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final, NamedTuple

from taquba._interface.store import Store
from taquba._line import methods
from taquba._line.address import socket_path
from taquba._line.connection import Connection, Refused
from taquba._line.server import SocketServer
from taquba._model.batch import MalformedBatch, shortened
from taquba._model.codec import decode_store_id
from taquba._objects.location import StoreLocation
from taquba._queue.handle_calls import HandleCalls, as_refusals
from taquba._queue.holders import Holders
from taquba._queue.ingesting import decode, ingest
from taquba._queue.member_calls import METHODS, MemberCalls
from taquba._queue.owner import Owner

_log: Final = logging.getLogger(__name__)


class Served(NamedTuple):
    """What other processes of this machine reach."""

    server: SocketServer
    holders: Holders


async def serve_socket(owner: Owner, store: Store, location: StoreLocation) -> Served | None:
    """Listen for the other processes on this machine; None if that is not possible.

    They then use the inbox, which has the same guarantees.
    """
    try:
        path = await asyncio.to_thread(socket_path, location)
        calls = SocketCalls(owner, store)
        server = await SocketServer.listen(
            path, calls, partial(_ended, owner), calls.hear, calls_that_wait
        )
        return Served(server, calls.holders)
    except OSError as error:
        _log.warning("producers of %s cannot connect, and use its inbox: %s", location.url, error)
        return None


def _ended(owner: Owner, error: BaseException | None) -> None:
    """Fail the queue: producers would connect to nobody, and wait."""
    if error is None:
        owner.forsaken()
    elif owner.failure is None:
        owner.committer.lose(error)


def calls_that_wait(method: str, arguments: list[object]) -> bool:
    """Whether a call waits for what others do."""
    return method == methods.STORE and bool(arguments) and arguments[0] in _WAIT


_WAIT: Final = ("wait_for_completion", "wait_for_jobs_on")


class SocketCalls:
    """Carries out calls."""

    def __init__(self, owner: Owner, store: Store) -> None:
        self._owner = owner
        self.holders = holders = Holders(owner)
        self._handle = HandleCalls(owner, store, holders)
        self._members = MemberCalls(owner, holders)
        self.hear = self._members.hear

    async def __call__(
        self, connection: Connection, method: str, arguments: list[object]
    ) -> object:
        with as_refusals():
            match method, arguments:
                case methods.STORE, [str() as name, bytes() as data]:
                    return await self._handle.carry_out(connection, name, data)
                case methods.ABOUT, []:
                    return decode_store_id(self._owner.stamp)
                case _ if method in METHODS:
                    return await self._members.carry_out(connection, method, arguments)
                case methods.BATCH, [str() as name, bytes() as batch]:
                    return await self._ingest(name, batch)
                case _ if (served := self._owner.served.get(method)) is not None:
                    return await served(*arguments)
                case _:
                    raise Refused("UnknownCall", f"{method!r:.50} with {len(arguments)} arguments")

    async def _ingest(self, name: str, data: bytes) -> object:
        try:
            batch = await decode(name, data)
        except MalformedBatch as error:
            raise Refused(type(error).__name__, shortened(error)) from error
        return await ingest(self._owner, batch)
