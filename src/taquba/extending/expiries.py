"""Retention: entries that name records to remove, in the order of time, and their sweep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple

from taquba._interface.store import Store
from taquba._model.clock import Clock, Timer
from taquba._model.errors import TaqubaError
from taquba._model.tasks import together
from taquba.extending.walks import pages

__all__ = ["Expiries", "Expiry", "Sweeper", "expiry_key"]

_log: Final = logging.getLogger(__name__)

_DIGITS: Final = 14
"""Enough for milliseconds since the epoch until the year 5138, so that keys sort by time."""
_RECHECK_MS: Final = 1000
_RETRY_MS: Final = 1000


class Expiry(NamedTuple):
    """An entry that names a record to remove.

    Attributes:
        at_ms: The time in its key, ms since the Unix epoch.
        what: The rest of its key.
        key: Its key.
        value: Its value.
    """

    at_ms: int
    what: str
    key: str
    value: bytes


def expiry_key(prefix: str, at_ms: int, what: str) -> str:
    """The key of an expiry under a prefix, which ends with a slash."""
    return f"{prefix}{at_ms:0{_DIGITS}d}/{what}"


class Expiries:
    """The expiries of a package, as entries under a prefix.

    Args:
        store: The store.
        prefix: The beginning of their keys; it ends with a slash.
        package: The name of the package, for messages.
        clock: Where time comes from; the store's clock by default.
    """

    def __init__(self, store: Store, prefix: str, package: str, clock: Clock | None = None) -> None:
        self._store = store
        self._prefix = prefix
        self._package = package
        self._clock = store.clock if clock is None else clock

    async def sweep(
        self, forget: Callable[[Expiry], Coroutine[Any, Any, None]], *, keep_ms: int = 0
    ) -> int | None:
        """Remove the due records; reads their expiries, and the first ones that are not yet due.

        Args:
            forget: Removes one record; its expiry is deleted after that, so after a crash in
                between the next sweep removes the record again.
            keep_ms: How long after the time in its key an expiry is due.

        Returns:
            When the next one is due, ms since the Unix epoch; None if there is none.
        """
        async for page in pages(lambda cursor: self._store.kv_scan(self._prefix, cursor)):
            now = self._clock.time_ms()
            found = [
                expiry
                for entry in page.entries
                if (expiry := self._read(entry.key, entry.value)) is not None
            ]
            await together(forget(expiry) for expiry in found if expiry.at_ms + keep_ms <= now)
            for expiry in found:
                if expiry.at_ms + keep_ms > now:
                    return expiry.at_ms + keep_ms
        return None

    def _read(self, key: str, value: bytes) -> Expiry | None:
        digits, _, what = key.removeprefix(self._prefix).partition("/")
        if len(digits) == _DIGITS and digits.isdecimal() and what:
            return Expiry(int(digits), what, key, value)
        _log.warning("the entry %r does not belong to %s: delete or rename it", key, self._package)
        return None


class Sweeper:
    """Sweeps whenever a record is due.

    Args:
        clock: Where time comes from.
        sweep: Removes the due records; returns when the next one is due, in ms, or None.
        failed: The warning for a sweep that fails and will be tried again.
    """

    def __init__(
        self, clock: Clock, sweep: Callable[[], Awaitable[int | None]], failed: str
    ) -> None:
        self._clock = clock
        self._sweep = sweep
        self._failed = failed
        self._is_due = asyncio.Event()
        self._armed_for: int | None = None
        self._timer: Timer | None = None
        self._sweeping = False
        # Otherwise a virtual clock would advance in the middle of a sweep.
        clock.attach(lambda: self._sweeping)

    def note(self, due_ms: int) -> None:
        """Note when a record that is now stored is due."""
        if self._armed_for is None or due_ms < self._armed_for:
            self._arm(due_ms)

    async def run(self) -> None:
        """Sweep whenever a record is due, until cancelled."""
        # It may have run before, in another event loop.
        self._disarm()
        self._is_due = asyncio.Event()
        try:
            while True:
                await self._round()
                await self._is_due.wait()
                self._is_due.clear()
        finally:
            self._disarm()

    async def _round(self) -> None:
        self._disarm()
        self._sweeping = True
        try:
            due = await self._sweep()
        except TaqubaError as error:
            if error.permanent:
                raise
            _log.warning("%s: %s", self._failed, error)
            due = self._clock.time_ms() + _RETRY_MS
        finally:
            self._sweeping = False
        if due is not None:
            # Records noted meanwhile may have been written behind the sweep.
            self.note(due)

    def _arm(self, due_ms: int) -> None:
        self._disarm()
        self._armed_for = due_ms
        self._timer = self._clock.call_at(due_ms, _RECHECK_MS, self._is_due.set)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._armed_for = None
