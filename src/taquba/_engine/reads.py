"""Reading from SlateDB, bounded in time; the binding's errors become ours here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from slatedb.uniffi import CloseReason, DbIterator, Error, KeyRange

from taquba._engine import binding
from taquba._engine.again import A_MOMENT, was_repeated
from taquba._engine.binding import Handle, Row
from taquba._engine.damage import RESTORE, damage_in
from taquba._model.describing import shown
from taquba._model.errors import QueueClosed, StoreError, StoreFenced, TaqubaError
from taquba._model.keys import prefix_end
from taquba._model.redaction import without_secrets
from taquba._objects.limits import OPERATION_TIMEOUT

T = TypeVar("T")

_GETS_PER_TURN: Final = 64
"""After so many the event loop gets its turn, though all were answered at once (1 ms)."""

_SCAN_BATCH: Final = 512
_FIRST_SCAN_BATCH: Final = 16
_SCAN_BATCH_BYTES: Final = 1024 * 1024


def translate(error: Exception) -> TaqubaError:
    """A binding error as one of ours."""
    if isinstance(error, TaqubaError):
        return error
    if isinstance(error, Error.Closed):
        if error.reason is CloseReason.FENCED:
            return StoreFenced()
        if error.reason is CloseReason.CLEAN:
            return QueueClosed()
        return StoreError(
            f"the storage engine stopped ({error.message}); close the queue, open it again",
            permanent=True,
        )
    damage = damage_in(message_of(error)) if isinstance(error, Error) else None
    if damage is not None:
        return StoreError(f"{damage}; {RESTORE} ({message_of(error).strip()})", permanent=True)
    if isinstance(error, Error):
        permanent = not isinstance(error, (Error.Unavailable, Error.Transaction))
        return StoreError(f"the store failed: {message_of(error)}", permanent=permanent)
    return StoreError(f"the store failed: {shown(error)}", permanent=True)


def message_of(error: Exception) -> str:
    """What an error says; the text of the binding's errors is in a field."""
    return str(getattr(error, "message", error))


async def bounded(operation: Awaitable[T], what: str, seconds: float = OPERATION_TIMEOUT) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await operation
    except TimeoutError:
        raise StoreError(f"the store did not answer within {seconds:g} s ({what})") from None
    except Error as error:
        raise translate(error) from without_secrets(error)


async def _patiently(answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(OPERATION_TIMEOUT):
            return await answer
    except TimeoutError:
        raise StoreError(
            f"the store did not answer within {OPERATION_TIMEOUT:g} s (reading)"
        ) from None


class Reads:
    """Reads of an open database."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._gets = 0
        self.under_way = 0
        """Reads that were started and have not answered."""

    async def _ask(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The answer to a read, which is repeated where an odd answer may have spoiled it."""
        self.under_way += 1
        pauses = iter(A_MOMENT)
        try:
            while True:
                handle, started = self._handle, time.monotonic()
                try:
                    return await operation()
                except Error as error:
                    if isinstance(error, Error.Closed) or self._has_stopped(handle):
                        await self._go_on_after(error, handle)
                        continue
                    pause = next(pauses, None)
                    odd = isinstance(error, (Error.Data, Error.Unavailable))
                    if pause is None or not odd or was_repeated(error, started):
                        raise translate(error) from without_secrets(error)
                    await asyncio.sleep(pause)
        finally:
            self.under_way -= 1

    def _has_stopped(self, handle: Handle) -> bool:
        """Whether a handle can no longer be used."""
        del handle
        return False

    async def _go_on_after(self, error: Error, handle: Handle) -> None:
        """Have another handle instead of one that failed for good, or raise why there is none."""
        del handle
        raise translate(error) from without_secrets(error)

    async def get(self, key: bytes) -> bytes | None:
        value = await self._read(key)
        self._gets += 1
        if self._gets % _GETS_PER_TURN == 0:
            await asyncio.sleep(0)
        return value

    async def _read(self, key: bytes) -> bytes | None:
        return await self._ask(lambda: binding.get(self._handle, key, _patiently))

    async def newest_write(self, prefix: bytes) -> int | None:
        """When the newest row under `prefix` was written, in ms since the epoch."""
        span = KeyRange(
            start=prefix, start_inclusive=True, end=prefix_end(prefix), end_inclusive=False
        )
        newest: int | None = None
        rows = await self._ask(lambda: _patiently(self._handle.scan(span)))
        while found := await self._ask(lambda: _patiently(rows.next_batch(_SCAN_BATCH))):
            newest = max(newest or 0, *(row.create_ts for row in found))
        return newest

    async def scan(
        self, start: bytes, end: bytes | None, *, after: bool = False, batch: int = _SCAN_BATCH
    ) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Rows from `start` (exclusive when `after`) up to `end`, as of now.

        They come in batches of at most `batch`, fewer where rows are large: a batch is lifted in
        one go, and must not hold the event loop for long.
        """
        wanted = min(batch, _FIRST_SCAN_BATCH)
        scanned: Handle | None = None
        rows: DbIterator | None = None

        async def more() -> list[Row]:
            nonlocal scanned, rows
            if rows is None or scanned is not self._handle:
                # At first, and where the database was opened anew meanwhile: after the last row.
                scanned = self._handle
                span = KeyRange(
                    start=start, start_inclusive=not after, end=end, end_inclusive=False
                )
                rows = await _patiently(scanned.scan(span))
            try:
                return await binding.next_rows(rows, wanted, _patiently)
            except Error:
                rows = None
                raise

        while True:
            found = await self._ask(more)
            if found:
                start, after = found[-1][0], True
                yield found
            if len(found) < wanted:
                return
            # A batch that is in memory was read at once: the event loop gets its turn.
            await asyncio.sleep(0)
            row_size = sum(len(value) for _, value in found) // len(found) + 1
            wanted = max(1, min(batch, _SCAN_BATCH_BYTES // row_size))

    async def read_range(
        self, start: bytes, end: bytes | None, limit: int, *, after: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` rows from `start` (exclusive when `after`) up to `end`."""
        found: list[tuple[bytes, bytes]] = []
        async for rows in self.scan(start, end, after=after, batch=min(limit, _SCAN_BATCH)):
            found += rows[: limit - len(found)]
            if len(found) >= limit:
                break
        return found

    def scan_prefix(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        return self.scan(prefix, prefix_end(prefix))
