"""The budget of a batch: reserved before a call, settled after it, kept in the store.

One entry, the account, holds the spent amounts and every open reservation. Each change of it is one
write, which is refused where another process has changed the account meanwhile, and is then decided
anew: so all processes together spend no more than the budget. Changes that a process makes at the
same time share a write. A reservation that a process left open counts in full, until its call is
made again or found to have been made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgpack

from taquba import InvalidArgument, InvalidArgumentType, Store, StoreError
from taquba.extending import UNREADABLE, describe, only_it_was_cancelled
from taquba_bulk import _values
from taquba_bulk._costs import Costs
from taquba_bulk._holds import swap
from taquba_bulk._stopping import Suspended

T = TypeVar("T")

_MOST_LIVE: Final = 2000
"""Calls under way at the same time, so that their reservations fit into an entry."""

_LOOK_SECONDS: Final = 0.1
"""How often a call that cannot be paid looks at what other processes have settled."""

_HALF: Final = 8
"""Bytes of a call's id that are its item's, and that are its own."""


def call_id(run_id: str, key: str) -> bytes:
    """The id of a paid call; ids of one item's calls begin alike."""
    return _of_item(run_id) + sha256(f"{run_id}/{key}".encode()).digest()[:_HALF]


def _of_item(run_id: str) -> bytes:
    return sha256(run_id.encode()).digest()[:_HALF]


class _Reservation(NamedTuple):
    run: str
    """The run of the batch in which it was made."""
    units: dict[str, int]


class _Account:
    """The account; `open` and `spent` are changed only in a copy."""

    __slots__ = ("open", "refused", "spent")

    def __init__(
        self,
        spent: Costs | None = None,
        still_open: Mapping[bytes, _Reservation] | None = None,
        refused: tuple[str, str] = ("", ""),
    ) -> None:
        self.spent = Costs() if spent is None else spent
        self.open = dict(still_open or {})
        self.refused = refused
        """The last run in which a call could not be paid, and the metric that did not suffice."""

    def copy(self) -> _Account:
        return _Account(Costs(self.spent.packed()), self.open, self.refused)

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb((self.spent.packed(), self.open, self.refused))
        return packed

    @classmethod
    def decode(cls, row: bytes) -> _Account:
        """Read a stored account; raises one of `UNREADABLE` if it is damaged."""
        found = msgpack.unpackb(row)
        if len(found) == 2:
            # Of a release whose batches ran in one process.
            spent, units_of = found
            return cls(
                Costs(spent),
                {call: _Reservation("", Costs(units).packed()) for call, units in units_of.items()},
            )
        spent, still_open, (run, metric) = found
        return cls(
            Costs(spent),
            {
                call: _Reservation(of, Costs(units).packed())
                for call, (of, units) in still_open.items()
            },
            (run, metric),
        )

    def held(self, metric: str, but: bytes) -> int:
        return sum(
            reserved.units.get(metric, 0) for call, reserved in self.open.items() if call != but
        )

    def settle(self, call: bytes, costs: Costs | None) -> None:
        """Replace a reservation by a cost: without `costs`, by itself."""
        reserved = self.open.pop(call, None)
        if reserved is not None:
            self.spent.add_all(Costs(reserved.units) if costs is None else costs)


class _Waits(NamedTuple):
    """Why a call cannot be reserved yet."""

    lacking: str | None
    """The metric of which too little is left; None if too many calls are under way."""
    helps: bool
    """Whether a call that is under way may turn out cheaper than reserved."""


class _Change:
    """A change of the account, on its way."""

    __slots__ = ("apply", "came_to", "error", "is_made")

    def __init__(self, apply: Callable[[_Account], object]) -> None:
        self.apply = apply
        self.is_made = False
        self.came_to: object = None
        self.error: Exception | None = None


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
        self._own_limits = self._limits = Costs.of(_checked(limits), "budget")
        self.metrics = tuple(self._limits.amounts())
        self._run = ""
        self._live: set[bytes] = set()
        """Calls that are under way in this process."""
        self._left: set[bytes] = set()
        """Calls of this run that this process has left."""
        self._on_exceeded: Callable[[str], None] = lambda metric: None
        self._changed = asyncio.Event()
        self._halted = False
        self._row: bytes | None = None
        self._account = _Account()
        """What `_row` says."""
        self._changes: list[_Change] = []
        self._writing: asyncio.Task[None] | None = None

    @property
    def units(self) -> dict[str, int]:
        """The limits that this process was given, as `open` takes them."""
        return self._own_limits.packed()

    async def open(
        self, run: str, on_exceeded: Callable[[str], None], units: Mapping[str, int]
    ) -> None:
        """Begin, or join, a run of the batch.

        Args:
            run: The run.
            on_exceeded: Gets the metric when a call cannot be paid.
            units: The limits of that run, in billionths.
        """
        self._limits = Costs(units)
        self.metrics = tuple(self._limits.amounts())
        self._run = run
        self._on_exceeded = on_exceeded
        self._live, self._left = set(), set()
        self._halted = False
        await self._read()

    def halt(self) -> None:
        """Let no call wait any longer for what other processes do."""
        self._halted = True
        self._changed.set()

    def spent(self) -> dict[str, float]:
        """The cost of calls, by metric; open reservations count in full."""
        found = Costs(self._account.spent.packed())
        for reserved in self._account.open.values():
            found.add_all(Costs(reserved.units))
        amounts = found.amounts()
        return {metric: amounts.get(metric, 0.0) for metric in self.metrics}

    def limit(self, metric: str) -> float:
        """How much may be spent of a metric."""
        return self._limits.amounts()[metric]

    async def look(self) -> None:
        """Read what other processes have spent, and whether they could not pay a call."""
        if not self.metrics:
            return
        if self._writing is None or self._writing.done():
            await self._read()
        run, metric = self._account.refused
        if run == self._run and metric in self.metrics:
            self._on_exceeded(metric)

    async def reserve(self, call: bytes, costs: Costs) -> None:
        """Reserve the maximum cost of a call; durable on return.

        Waits for other calls to be settled as long as that may help.

        Raises:
            Suspended: The call cannot be paid.
        """
        if not self.metrics:
            return
        reserve = partial(self._reserve, call, costs)
        self._left.discard(call)
        try:
            while True:
                self._changed.clear()
                waits = await self._change(reserve)
                if waits is None:
                    break
                if waits.lacking is not None and not waits.helps:
                    self._on_exceeded(waits.lacking)
                    raise Suspended
                if self._halted and not self._live:
                    # Calls of other processes may have died with them.
                    raise Suspended
                await self._until_changed()
        except BaseException:
            self.leave_open(call)
            raise
        self._live.add(call)

    async def settle(self, call: bytes, costs: Costs) -> None:
        """Settle a call with its cost; durable on return. Does nothing if it is already settled."""
        if self.metrics or call in self._account.open:
            await self._settled(call, costs)

    async def write_off(self, call: bytes) -> None:
        """Settle a call that may have been made: its cost is the reservation."""
        if self.metrics or call in self._account.open:
            await self._settled(call, None)

    async def write_off_item(self, run_id: str) -> None:
        """Settle all calls of an item that has ended while they were under way."""
        if not self.metrics:
            return
        await self.look()
        item = _of_item(run_id)
        for call in [call for call in self._account.open if call.startswith(item)]:
            await self._settled(call, None)

    def leave_open(self, call: bytes) -> None:
        """A call was interrupted; its reservation stays until its outcome is known."""
        self._live.discard(call)
        self._left.add(call)
        self._changed.set()

    async def _settled(self, call: bytes, costs: Costs | None) -> None:
        self._live.discard(call)
        await self._change(lambda account: account.settle(call, costs))
        self._changed.set()

    async def _until_changed(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            await self._read()

    # -- decisions --------------------------------------------------------------------------

    def _reserve(self, call: bytes, costs: Costs, account: _Account) -> _Waits | None:
        """Reserve in an account, or say what for to wait."""
        live = [
            reserved
            for other, reserved in account.open.items()
            if other != call and reserved.run == self._run and other not in self._left
        ]
        for metric in self.metrics:
            wanted = account.spent.units(metric) + account.held(metric, call) + costs.units(metric)
            if wanted > self._limits.units(metric):
                helps = any(reserved.units.get(metric) for reserved in live)
                if not helps:
                    account.refused = (self._run, metric)
                return _Waits(metric, helps)
        if len(live) >= _MOST_LIVE:
            return _Waits(None, True)
        account.open[call] = _Reservation(self._run, costs.packed())
        return None

    # -- the account ------------------------------------------------------------------------

    async def _change(self, apply: Callable[[_Account], T]) -> T:
        """Change the account; durable on return, with what `apply` came to."""
        change = _Change(apply)
        self._changes.append(change)
        while not change.is_made:
            writing = self._writing
            if writing is None or writing.done():
                writing = asyncio.create_task(self._write(), name="taquba-bulk-budget")
                self._writing = writing
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # One that was cancelled alone is made anew.
                if not only_it_was_cancelled(writing):
                    raise
        if change.error is not None:
            raise change.error
        return cast("T", change.came_to)

    async def _write(self) -> None:
        while self._changes:
            changes, self._changes = self._changes, []
            try:
                await self._make(changes)
            except Exception as error:
                for change in changes:
                    change.error = error
            except BaseException:
                self._changes[:0] = changes
                raise
            for change in changes:
                change.is_made = True

    async def _make(self, changes: list[_Change]) -> None:
        """Apply changes to the account as it is in the store."""
        was_read = False
        while True:
            account = self._account.copy()
            for change in changes:
                change.came_to = change.apply(account)
            row = account.encode()
            if row == self._row or (self._row is None and row == _NOTHING):
                if was_read:
                    return
            elif await swap(self._store, self._key, self._row, row):
                self._account, self._row = account, row
                return
            # Another process may have changed it.
            await self._read()
            was_read = True

    async def _read(self) -> None:
        row = await self._store.kv_get(self._key)
        if row == self._row:
            return
        try:
            self._account = _Account() if row is None else _Account.decode(row)
        except UNREADABLE as error:
            raise StoreError(
                f"the account of the batch cannot be read ({describe(error)}): delete the entry "
                f"{self._key!r} to start again from zero",
                permanent=True,
            ) from error
        self._row = row


_NOTHING: Final = _Account().encode()


def _checked(limits: Any) -> Mapping[str, float]:
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        raise InvalidArgumentType(f'budget must be like {{"usd": 50}}, not {limits!r}')
    for metric, limit in limits.items():  # pyright: ignore[reportUnknownVariableType]
        if _values.amount(limit, f"budget[{metric!r}]") == 0:  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidArgument(f"budget[{metric!r}] must be more than 0")
    return limits  # pyright: ignore[reportUnknownVariableType] - checked above
