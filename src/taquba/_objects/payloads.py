"""Large payloads, each an object of its own, named by its job, when it was uploaded, and a digest.

An object is written before the commit that refers to it, and removed after the removal of its
record is durable. So a reference never dangles; what a crash leaves is an object that nothing
refers to, which the orphan sweep finds by its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from ulid import ULID

from taquba._model.errors import PayloadDamaged, StoreError
from taquba._model.ids import IdGenerator
from taquba._objects.integrity import READS, Damaged, aside, check_mark, mark_of
from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.space import ObjectSpace

_log: Final = logging.getLogger(__name__)

_CONCURRENT: Final = 16
"""Uploads, and downloads, of one store under way at the same time."""

_REMOVAL_ATTEMPTS: Final = 5
_REMOVAL_RETRY_SECONDS: Final = 1.0
_CLOSING_SECONDS: Final = 5.0


class _Turns:
    """Lets a few transfers run at a time. Waiting callers get an error if the store hangs.

    Otherwise a call with many transfers, or one behind many, would wait for the timeout of each.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_CONCURRENT)
        self._progress = 0
        """Transfers that have ended well."""

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        await self._wait()
        try:
            yield
            self._progress += 1
        finally:
            self._free.release()

    async def _wait(self) -> None:
        while True:
            before = self._progress
            try:
                async with asyncio.timeout(OPERATION_TIMEOUT):
                    await self._free.acquire()
                return
            except TimeoutError:
                if self._progress == before:
                    raise StoreError(
                        f"no large payload was transferred within {OPERATION_TIMEOUT:g} s"
                    ) from None


class PayloadReads:
    """Reads large payloads."""

    def __init__(self, objects: ObjectSpace, store_id: str) -> None:
        self._objects = objects
        self._prefix = f"{store_id}/jobs"
        self._downloads = _Turns()

    async def fetch(self, ref: str) -> bytes | None:
        """The payload of a reference, or None if its object is gone.

        Raises:
            PayloadDamaged: It is not as it was written, however often it is read.
        """
        job_id, _stamp, mark = _parts(ref)
        why = ""
        async with self._downloads.take():
            for _ in range(READS):
                payload = await self._objects.get(f"{self._prefix}/{ref}")
                if payload is None:
                    return None
                try:
                    await aside(check_mark, len(payload), payload, mark)
                except Damaged as damaged:
                    why = str(damaged)
                else:
                    return payload
        raise PayloadDamaged(job_id, ref, why)

    async def check_place(self) -> None:
        """Raise `StoreError` where the place of the payloads is gone, and not just one of them."""
        await self._objects.check_place()


class Payloads(PayloadReads):
    """Writes and removes them as well, for the owner of the store."""

    def __init__(
        self, objects: ObjectSpace, store_id: str, ids: IdGenerator, threshold: int | None
    ) -> None:
        super().__init__(objects, store_id)
        self._store_id = store_id
        self._ids = ids
        self.inline_limit: float = float("inf") if threshold is None else threshold
        """Largest payload that is kept in its record, in bytes."""
        self._uploads = _Turns()
        self._pending: set[str] = set()
        self._garbage: list[str] = []
        self._removing: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while objects are written, read or removed, those of the caller as well."""
        return self._objects.under_way > 0 or self._is_removing

    @property
    def _is_removing(self) -> bool:
        return self._removing is not None and not self._removing.done()

    async def upload(self, job_id: str, payload: bytes) -> str:
        """Write a payload; returns its reference.

        Until `release` is called with it the object is not an orphan, whatever refers to it.
        """
        mark = await aside(mark_of, len(payload), payload)
        ref = f"{job_id}.{self._ids.next()}.{mark}"
        self._pending.add(ref)
        try:
            async with self._uploads.take():
                await self._objects.put(f"{self._prefix}/{ref}", payload)
        except BaseException:
            # What was written of it, if anything, is for the orphan sweep.
            self._pending.discard(ref)
            raise
        return ref

    def release(self, ref: str) -> None:
        """The commit that refers to the object has landed, or never will."""
        self._pending.discard(ref)

    def discard(self, refs: Iterable[str]) -> None:
        """Remove objects to which no durable record refers any longer."""
        self._garbage += refs
        if self._garbage and not self._is_removing:
            self._removing = asyncio.create_task(self._remove(), name="taquba-payload-removal")

    async def orphan_candidates(self, before: int) -> AsyncIterator[list[tuple[str, str]]]:
        """Job id and reference of the objects that were uploaded before a moment, in wall ms.

        Those whose commit is under way are left out.
        """
        async for page in self._objects.list(self._prefix):
            refs = (info.key.rpartition("/")[2] for info in page)
            yield [
                (job_id, ref)
                for ref in refs
                if (job_id := _job_of(ref, before)) and ref not in self._pending
            ]

    async def remove_unfinished(self, age_ms: int) -> None:
        """Remove what is left of uploads that were cut off, and of the caller's objects."""
        await self._objects.remove_unfinished(self._store_id, age_ms / 1000)

    async def close(self, *, hurried: bool = False) -> None:
        """Give the removals under way a moment; what is left is for the next owner's sweep."""
        if self._removing is not None:
            if not hurried:
                await asyncio.wait({self._removing}, timeout=_CLOSING_SECONDS)
            self._removing.cancel()
            await asyncio.gather(self._removing, return_exceptions=True)
        await self._objects.close()

    async def _remove(self) -> None:
        while self._garbage:
            refs, self._garbage = self._garbage, []
            for attempt in range(1, _REMOVAL_ATTEMPTS + 1):
                try:
                    await self._objects.delete([f"{self._prefix}/{ref}" for ref in refs])
                    break
                except StoreError as error:
                    if attempt == _REMOVAL_ATTEMPTS:
                        _log.warning(
                            "%d payload objects are left to the orphan sweep: %s", len(refs), error
                        )
                await asyncio.sleep(_REMOVAL_RETRY_SECONDS)


def _job_of(ref: str, before: int) -> str | None:
    """The job of a reference that was made before a moment; None for a younger or foreign name."""
    job_id, stamp, mark = _parts(ref)
    try:
        made_at = ULID.from_str(stamp).milliseconds
    except ValueError:
        return None
    return job_id if mark and made_at < before else None


def _parts(ref: str) -> tuple[str, str, str]:
    """Job, stamp and mark in a reference. No id of a job has a dot."""
    job_id, _, rest = ref.partition(".")
    stamp, _, mark = rest.partition(".")
    return job_id, stamp, mark
