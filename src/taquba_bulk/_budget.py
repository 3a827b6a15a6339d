"""The budget of a batch: reserved before a call, settled after it, kept in the store.

One entry holds the spent amounts and every open reservation, so that each change is one atomic
write. Concurrent changes share a write. A reservation that a process left open counts in full,
until its call is made again or found to have been made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from taquba import InvalidArgument, InvalidArgumentType, Store, StoreError
from taquba.extending import UNREADABLE, describe, only_it_was_cancelled
from taquba_bulk import _values
from taquba_bulk._costs import Costs
from taquba_bulk._stopping import Suspended

_MOST_LIVE: Final = 2000
"""Calls under way at the same time, so that their reservations fit into an entry."""


class Budget:
    """The budget, by metric; without limits it stores nothing.

    Args:
        store: An open handle on the store.
        key: The key of its entry.
        limits: How much may be spent, by metric.
    """

    def __init__(self, store: Store, key: str, limits: Mapping[str, float] | None) -> None:
        self._store = store
        self._key = key
        self._limits = Costs.of(_checked(limits), "budget")
        self.metrics = tuple(self._limits.amounts())
        self._spent = Costs()
        self._open: dict[bytes, Costs] = {}
        self._live: set[bytes] = set()
        """Open reservations whose calls are under way in this process."""
        self._on_exceeded: Callable[[str], None] = lambda metric: None
        self._changed = asyncio.Event()
        self._version = 0
        self._saved = 0
        self._saving: asyncio.Task[None] | None = None

    async def open(self, on_exceeded: Callable[[str], None]) -> None:
        """Read the spent amounts; `on_exceeded` gets the metric when a call cannot be paid."""
        self._on_exceeded = on_exceeded
        self._spent, self._open, self._live = Costs(), {}, set()
        row = await self._store.kv_get(self._key)
        if row is None:
            return
        try:
            spent, still_open = msgpack.unpackb(row)
            self._spent = Costs(spent)
            self._open = {call: Costs(units) for call, units in still_open.items()}
        except UNREADABLE as error:
            raise StoreError(
                f"the account of the batch cannot be read ({describe(error)}): delete the entry "
                f"{self._key!r} to start again from zero",
                permanent=True,
            ) from error

    def spent(self) -> dict[str, float]:
        """The cost of calls, by metric; open reservations count in full."""
        found = Costs(self._spent.packed())
        for costs in self._open.values():
            found.add_all(costs)
        return {metric: found.amounts().get(metric, 0.0) for metric in self.metrics}

    def limit(self, metric: str) -> float:
        """How much may be spent of a metric."""
        return self._limits.amounts()[metric]

    async def reserve(self, call: bytes, costs: Costs) -> None:
        """Reserve the maximum cost of a call; durable on return.

        Waits for other calls to be settled as long as that may help.

        Raises:
            Suspended: The call cannot be paid.
        """
        if not self.metrics:
            return
        while True:
            lacking = self._lacking(call, costs)
            if lacking is None and len(self._live) < _MOST_LIVE:
                break
            if lacking is not None and not any(
                self._open[other].units(lacking) for other in self._live
            ):
                self._on_exceeded(lacking)
                raise Suspended
            self._changed.clear()
            await self._changed.wait()
        self._open[call] = costs
        self._live.add(call)
        await self._save()

    async def settle(self, call: bytes, costs: Costs) -> None:
        """Settle a call with its cost; durable on return. Does nothing if it is already settled."""
        if self._open.pop(call, None) is None:
            return
        self._live.discard(call)
        self._spent.add_all(costs)
        self._changed.set()
        await self._save()

    async def write_off(self, call: bytes) -> None:
        """Settle a call that may have been made: its cost is the reservation."""
        reserved = self._open.get(call)
        if reserved is not None:
            await self.settle(call, reserved)

    def leave_open(self, call: bytes) -> None:
        """A call was interrupted; its reservation stays until its outcome is known."""
        self._live.discard(call)
        self._changed.set()

    def _lacking(self, call: bytes, costs: Costs) -> str | None:
        """The metric of which too little is left."""
        for metric in self.metrics:
            held = sum(
                reserved.units(metric) for other, reserved in self._open.items() if other != call
            )
            wanted = self._spent.units(metric) + held + costs.units(metric)
            if wanted > self._limits.units(metric):
                return metric
        return None

    async def _save(self) -> None:
        self._version += 1
        version = self._version
        while self._saved < version:
            saving = self._saving
            if saving is None or saving.done():
                saving = asyncio.create_task(self._write(), name="taquba-bulk-budget")
                self._saving = saving
            try:
                await asyncio.shield(saving)
            except asyncio.CancelledError:
                # One that was cancelled alone is made anew.
                if not only_it_was_cancelled(saving):
                    raise

    async def _write(self) -> None:
        version = self._version
        still_open = {call: costs.packed() for call, costs in self._open.items()}
        try:
            await self._store.kv_put(self._key, msgpack.packb((self._spent.packed(), still_open)))
            self._saved = version
        finally:
            self._saving = None


def _checked(limits: Any) -> Mapping[str, float]:
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        raise InvalidArgumentType(f'budget must be like {{"usd": 50}}, not {limits!r}')
    for metric, limit in limits.items():  # pyright: ignore[reportUnknownVariableType]
        if _values.amount(limit, f"budget[{metric!r}]") == 0:  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidArgument(f"budget[{metric!r}] must be more than 0")
    return limits  # pyright: ignore[reportUnknownVariableType] - checked above
