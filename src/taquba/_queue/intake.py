"""The owner's side of the inbox: take the batches of producers, put aside the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

from taquba._memory.alarm import Alarm
from taquba._model import keys
from taquba._model.batch import (
    MAX_BATCH_BYTES,
    Batch,
    MalformedBatch,
    is_batch_name,
    shortened,
)
from taquba._model.errors import StoreError, TaqubaError
from taquba._model.options import InboxConfig
from taquba._model.redaction import without_secrets
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.integrity import READS
from taquba._objects.location import StoreLocation
from taquba._objects.object_info import ObjectInfo
from taquba._objects.wake import WakeListener
from taquba._queue.ingesting import Ingested, decode, submit
from taquba._queue.owner import Owner
from taquba._rules import marks
from taquba._store.transaction import Transaction

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_GROUP_BATCHES: Final = 256
_GROUP_BYTES: Final = 32 * 1024 * 1024
"""Batches that are read and taken at the same time."""

_IDLE_ON_BUCKET_MS: Final = 5000
"""Each look costs money there."""
_IDLE_ON_FOLDER_MS: Final = 1000
_IDLE_IN_MEMORY_MS: Final = 600_000
"""Producers are in this process, and notify the owner."""

_SWEEP_ROWS: Final = 512
_SWEEPS_PER_WINDOW: Final = 24
_AFTER_FAILURE_MS: Final = 1000
_LONGEST_AFTER_FAILURE_MS: Final = 30_000
_UNFINISHED_SECONDS: Final = 3600
"""After this time without a write, a file has lost its producer."""


class Inbox:
    """Takes batches, one round after the other."""

    def __init__(self, owner: Owner, objects: InboxObjects, config: InboxConfig) -> None:
        self._objects = objects
        self._alarm = Alarm()
        self._owner = owner
        self._policy = config.policy(_default_idle_ms(objects.location))
        self._round = asyncio.Lock()
        self._sweep_due = 0
        self._swept_up_to = keys.MARK_TIME
        self._unseen: set[str] = set()
        """Batches that this round, or the last one, listed and did not find."""
        self._complained: set[str] = set()
        owner.moving.append(lambda: self.busy)
        owner.take_inbox = self.take

    @staticmethod
    async def open(owner: Owner, config: InboxConfig, *, fsync: bool) -> Inbox:
        """Take the batches that producers put beside the owner's store."""
        objects = await InboxObjects.open(owner.location, fsync=fsync)
        await objects.put_up_sign()
        return Inbox(owner, objects, config)

    @property
    def busy(self) -> bool:
        """True except while it sleeps until the next look."""
        return not self._alarm.sleeping or self._round.locked()

    async def run(self) -> None:
        """Take batches as they arrive, until cancelled."""
        listener = WakeListener(self._objects.location, self._alarm.ring)
        try:
            await listener.listen()
            await self._keep_looking()
        finally:
            await listener.close()

    async def close(self) -> None:
        await self._objects.close()

    async def _keep_looking(self) -> None:
        """Look, take, and sleep: the longer, the more consecutive looks found nothing."""
        policy = self._policy
        pause_ms = policy.poll_ms
        failures = 0
        while True:
            try:
                found = await self._look()
                pause_ms = policy.poll_ms if found else min(2 * pause_ms, policy.idle_poll_ms)
                delay_ms = pause_ms
                failures = 0
            except StoreError as error:
                if self._owner.failure is not None:
                    raise
                _log.warning("the inbox could not be read: %s", error)
                delay_ms = max(pause_ms, _after_failures_ms(failures))
                failures += 1
            await self._alarm.sleep(partial(self._owner.clock.call_later, delay_ms))

    async def take(self) -> int:
        """Take all batches in the inbox; returns how many jobs are new.

        Raises:
            StoreError: The inbox cannot be listed.
        """
        return (await self._take_all())[1]

    async def _look(self) -> bool:
        """Take all batches in the inbox; returns whether there were any."""
        found, _, all_gone = await self._take_all()
        # A mark may be removed only when the batch that it stands for is seen to be gone, however
        # long ago the last look was.
        if all_gone and self._owner.clock.time_ms() >= self._sweep_due:
            await self._sweep()
        return found > 0

    async def _take_all(self) -> tuple[int, int, bool]:
        """How many batches were read, how many jobs are new, and whether all batches are gone."""
        found = new = 0
        all_gone = True
        async with self._round, aclosing(self._objects.batches()) as pages:
            before, self._unseen = self._unseen, set()
            async for page in pages:
                found += len(page)
                for group in _groups(sorted(page)):
                    jobs, gone = await self._take_group(group)
                    new += jobs
                    all_gone = all_gone and gone
            self._note_unseen(before)
        return found - len(self._unseen), new, all_gone

    def _note_unseen(self, before: set[str]) -> None:
        """Report batches that were listed and not found twice in a row; once, a listing may lag."""
        again = self._unseen & before
        if not again <= self._complained:
            _log.warning(
                "%d batches are listed in the inbox and cannot be read, %s for example; "
                "they are looked for again",
                len(again),
                min(again),
            )
        self._complained = again

    async def _take_group(self, group: Sequence[ObjectInfo]) -> tuple[int, bool]:
        """How many jobs are new, and whether all batches of the group are gone."""
        left: set[str] = set()
        names = [info.key for info in group]
        batches = await asyncio.gather(
            *(self._guarded(info.key, partial(self._read, info), left) for info in group)
        )
        # What is listed and not found may be there all the same: only a listing tells.
        left |= self._unseen.intersection(names)
        ingested: dict[str, Ingested] = {}
        # One after the other: of two that want the same dedup key or id the older one gets it.
        for name, batch in zip(names, batches, strict=True):
            if batch is not None:
                submitted = await self._guarded(name, partial(submit, self._owner, batch), left)
                if submitted is not None:
                    ingested[name] = submitted
        await asyncio.gather(
            *(self._guarded(name, one.until_landed, left) for name, one in ingested.items())
        )
        new = sum(one.new for name, one in ingested.items() if name not in left)
        removed = await self._remove([name for name in ingested if name not in left])
        # A batch that was taken before has survived a removal; only the next listing shows whether
        # it does so again.
        all_gone = removed and not left and not any(one.known for one in ingested.values())
        return new, all_gone

    async def _guarded(
        self, name: str, work: Callable[[], Awaitable[T]], left: set[str]
    ) -> T | None:
        """Do some work on a batch, whose errors do not affect the others.

        Returns:
            The result of the work; None if the batch is rejected, or must be `left` for now.
        """
        try:
            try:
                return await work()
            except MalformedBatch as malformed:
                await self._reject(name, str(malformed))
            except TaqubaError:
                raise
            except Exception as error:
                shown = without_secrets(error)
                _log.error("batch %s in the inbox cannot be taken", name, exc_info=shown)
                await self._reject(name, f"the owner failed on it: {shown!r}")
        except StoreError as error:
            if self._owner.failure is not None:
                raise
            _log.warning("batch %s is left in the inbox for now: %s", name, error)
            left.add(name)
        return None

    async def _read(self, info: ObjectInfo) -> Batch | None:
        """A batch, or None if it is not found."""
        if not is_batch_name(info.key):
            raise MalformedBatch("its name is not that of a producer's batch")
        if info.size > MAX_BATCH_BYTES:
            raise MalformedBatch(f"{info.size} bytes; a batch has at most {MAX_BATCH_BYTES}")
        failed = 0
        while True:
            try:
                batch = await self._decoded(info.key)
            except MalformedBatch:
                # A transfer may have failed, and not what is stored.
                failed += 1
                if failed == READS:
                    raise
            else:
                if failed:
                    raise StoreError("its reads came out differently")
                return batch

    async def _decoded(self, name: str) -> Batch | None:
        data = await self._objects.get(name)
        if data is None:
            self._unseen.add(name)
            return None
        return await decode(name, data)

    async def _reject(self, name: str, reason: str) -> None:
        reason = shortened(reason)
        _log.warning("batch %s in the inbox is rejected: %s", name, reason)
        await self._objects.reject(name, reason)

    async def _remove(self, names: Sequence[str]) -> bool:
        """Remove batches that were taken; returns whether that worked."""
        try:
            await self._objects.remove(names)
        except StoreError as error:
            # The next round finds them again, and their marks show that they were taken.
            _log.warning("%d batches that were taken stay in the inbox: %s", len(names), error)
            return False
        return True

    async def _sweep(self) -> None:
        """Remove the marks of batches that are too old to come again."""
        owner, policy = self._owner, self._policy
        now = owner.clock.time_ms()
        end = keys.mark_time(max(0, now - policy.dedup_window_ms), keys.MARK)
        # The clock may have been set back.
        self._swept_up_to = min(self._swept_up_to, end)
        while rows := await owner.engine.read_range(self._swept_up_to, end, _SWEEP_ROWS):
            transaction = Transaction()
            for key, _ in rows:
                transaction.ops += marks.swept(key)
            await owner.committer.submit(transaction, durable=False)
            # Removed rows are not scanned again.
            self._swept_up_to = rows[-1][0]
        await self._objects.remove_unfinished(_UNFINISHED_SECONDS)
        self._sweep_due = now + policy.dedup_window_ms // _SWEEPS_PER_WINDOW


def _default_idle_ms(location: StoreLocation) -> int:
    if location.in_memory:
        return _IDLE_IN_MEMORY_MS
    return _IDLE_ON_FOLDER_MS if location.bucket is None else _IDLE_ON_BUCKET_MS


def _after_failures_ms(failures: int) -> int:
    return min(_AFTER_FAILURE_MS << min(failures, 10), _LONGEST_AFTER_FAILURE_MS)


def _groups(page: Sequence[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    """A page in parts that are taken one after the other."""
    group: list[ObjectInfo] = []
    size = 0
    for info in page:
        if group and (len(group) >= _GROUP_BATCHES or size + info.size > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(info)
        size += info.size
    if group:
        yield group
