"""One run of a batch at a time, over all processes, and what the others know of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import msgpack

from taquba import InvalidArgument, Store
from taquba.extending import UNREADABLE
from taquba_bulk._holds import Hold, Stamp, handle_id, held_by_another
from taquba_bulk._rates import Limit
from taquba_bulk._records import keys_of
from taquba_bulk._shared import Limits

RUN_HEADER: Final = "taquba_bulk.run"
"""Names the run in which an item was submitted."""


class Stage(IntEnum):
    """How far a run is."""

    GOES_ON = 0
    STOPS = 1
    """No further item is begun, and those that run end."""


class Running(NamedTuple):
    """A run of a batch, as all processes see it."""

    run: str
    stage: Stage
    budget: Mapping[str, int]
    rates: Mapping[str, Limit]

    @property
    def limits(self) -> Limits:
        """The limits of the process that runs the batch."""
        return Limits(self.budget, self.rates)

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def decode(cls, row: bytes | None) -> Running | None:
        """The run of an entry; None without one, or if it cannot be read."""
        stamp = None if row is None else Stamp.decode(row)
        if stamp is None:
            return None
        try:
            run, stage, budget, rates = msgpack.unpackb(stamp.content)
            limits = {key: Limit(*limit) for key, limit in rates.items()}
            return cls(run, Stage(stage), budget, limits)
        except UNREADABLE:
            return None


class Tenure:
    """The time for which this process is the one that runs a batch.

    Args:
        store: An open handle on the store.
        queue_name: The batch.
    """

    def __init__(self, store: Store, queue_name: str, limits: Limits) -> None:
        self._store = store
        self._name = queue_name
        self._key = keys_of(queue_name).run
        self._hold = Hold(store, self._key)
        self._running = Running(secrets.token_hex(8), Stage.GOES_ON, *limits)

    @property
    def run(self) -> str:
        """The name of the run, which no other has."""
        return self._running.run

    async def begin(self) -> None:
        """Become the one; waits some seconds for one that died.

        Raises:
            InvalidArgument: Another process runs the batch.
        """
        while True:
            row = await self._store.kv_get(self._key)
            if row is not None and await held_by_another(self._store, self._key, row):
                if await self._store.kv_get(self._key) is None:
                    # It has just ended.
                    continue
                raise already_running(self._name)
            if await self._hold.take(row, self._running.encode()):
                return

    async def keep(self) -> None:
        """Stay the one, until cancelled; raises `HoldLost` if another process took over."""
        await self._hold.keep()

    async def confirm(self) -> None:
        """Return if this is still the one; raises `HoldLost`."""
        await self._hold.confirm()

    async def stop(self) -> None:
        """Have the other processes begin no further item."""
        self._running = self._running._replace(stage=Stage.STOPS)
        await self._hold.renew(self._running.encode())

    async def end(self) -> None:
        """Let another process be the one."""
        await self._hold.let_go()


class Helpers:
    """The processes that help with a batch; each has an entry while it does.

    Args:
        store: An open handle on the store.
        queue_name: The batch.
    """

    def __init__(self, store: Store, queue_name: str) -> None:
        self._store = store
        self._prefix = keys_of(queue_name).helpers

    @property
    def _own(self) -> str:
        return self._prefix + handle_id(self._store).hex()

    async def join(self, run: str, places: int) -> None:
        """This process helps with a run, with so many items at a time."""
        await self._store.kv_put(self._own, msgpack.packb((run, places)))

    async def leave(self) -> None:
        """This process no longer helps."""
        await self._store.kv_delete(self._own)

    async def places(self, run: str) -> int:
        """How many items others run at a time, or have run until they died."""
        found = 0
        for entry in (await self._store.kv_scan(self._prefix, limit=_MOST_HELPERS)).entries:
            of_run, places = _helper(entry.value)
            found += places if of_run == run else 0
        return found

    async def forget_dead(self, run: str) -> None:
        """Remove what processes have left that helped with an earlier run."""
        for entry in (await self._store.kv_scan(self._prefix, limit=_MOST_HELPERS)).entries:
            if _helper(entry.value)[0] != run:
                await self._store.kv_compare_delete(entry.key, entry.value)


def _helper(row: bytes) -> tuple[str, int]:
    try:
        run, places = msgpack.unpackb(row)
        return str(run), int(places)
    except UNREADABLE:
        return "", 0


_MOST_HELPERS: Final = 1000


def already_running(queue_name: str) -> InvalidArgument:
    return InvalidArgument(
        f"a batch named {queue_name!r} is already running on this queue: "
        "wait for it, or give this one its own queue_name"
    )
