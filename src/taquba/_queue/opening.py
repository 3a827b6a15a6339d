"""Opening a store: check its layout, load the state in memory, take back claimed jobs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from taquba._engine.again import again
from taquba._engine.engine import Engine
from taquba._engine.label import Found, look, write_label
from taquba._engine.read_only import looking_once
from taquba._engine.reads import Reads
from taquba._engine.wal_check import owner_of
from taquba._line.joining import MemberInfo
from taquba._line.tokens import NotTokens
from taquba._memory.window import NOTHING
from taquba._model import keys
from taquba._model.clock import Clock
from taquba._model.codec import (
    Closing,
    decode_counters,
    decode_format_version,
    decode_row,
    encode_closing,
    encode_meta,
)
from taquba._model.errors import IncompatibleStore, StoreFenced, UnreadableJob
from taquba._model.ids import IdGenerator
from taquba._model.records import Counters, Job, JobStatus
from taquba._objects.fitness import check_new_store
from taquba._objects.location import StoreLocation
from taquba._objects.space import ObjectSpace
from taquba._queue.adoption import Adoption, living
from taquba._queue.guarding import MemoryHold, lock_folder, refuse_elected
from taquba._queue.open_options import OpenSettings
from taquba._queue.owner import Owner
from taquba._rules import transitions
from taquba._store.transaction import Transaction
from taquba._telemetry.choosing import instrument

if TYPE_CHECKING:
    from taquba._telemetry.instrumentation import Instrumentation

_log: Final = logging.getLogger(__name__)

_TAKEN_BACK_PER_COMMIT = 512

_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds, and up to twice as many, before an opening that was fenced is tried again."""


@dataclass(slots=True)
class _Tries:
    """What the tries of one opening have found so far.

    Attributes:
        owners: Of the store, before this one; and itself, where it may have written its mark.
        clean: The store was closed properly.
    """

    owners: set[str | None] = field(default_factory=set[str | None])
    clean: bool = False


async def open_owner(settings: OpenSettings) -> Owner:
    """Open the store for writing; when this returns the queue may serve.

    Whether that would fence a living owner is found out before anything is written.
    """
    location, clock = settings.location, settings.clock
    telemetry = await instrument(settings.telemetry, location.url, clock)
    if location.in_memory:
        in_memory = MemoryHold(settings)
        try:
            owner = await _open(settings, telemetry, _Tries(), labelled=True)
        except BaseException:
            in_memory.release()
            raise
        owner.on_failure.add(in_memory.release)
        return owner
    tries = _Tries()
    for pause in (*_PAUSES, None):
        labelled = await again(lambda: _is_ready(settings), f"looking at {location.url}")
        try:
            return await _open(settings, telemetry, tries, labelled=labelled)
        except StoreFenced:
            if pause is None:
                raise
            # Of several that fence each other in turn, each gives the others some time.
            await asyncio.sleep(pause * (1 + random.random()))
            if not await _may_repeat(location, tries.owners):
                raise
            _log.warning("%s: another process fenced this one; opening it again", location.url)
    raise AssertionError("the last try returns or raises")


async def _may_repeat(location: StoreLocation, owners: set[str | None]) -> bool:
    """Whether nobody else has opened a store since this process began to.

    Then it was fenced by the former owner, whose engine had stopped and was opened again, or by
    somebody whose opening is not over, either. Nobody may have both this opening and that one fail.
    """

    async def last_owner() -> str | None:
        async with looking_once(location) as newest:
            return owner_of(await newest.get(keys.OWNER))

    owner = await again(last_owner, f"looking at {location.url}")
    # An engine that was fenced while it was built has read nothing.
    may = not owners or owner in owners
    owners.add(owner)
    return may


async def _open(
    settings: OpenSettings,
    telemetry: Instrumentation | None,
    tries: _Tries,
    *,
    labelled: bool,
) -> Owner:
    location, clock = settings.location, settings.clock
    objects = await ObjectSpace.open(settings.payload_location, fsync=settings.fsync)
    counts = telemetry is not None and telemetry.metrics is not None
    lock = await lock_folder(settings)
    engine = await Engine.open(location, lock, fsync=settings.fsync, count_requests=counts)
    owner = None
    try:
        ids = IdGenerator(clock)
        stamp, stamping = await _stamp(engine, location, clock, ids)
        new = bool(stamping)
        counters: dict[str, Counters] = {}
        async for rows in engine.scan_prefix(keys.STATS):
            for key, value in rows:
                queue = keys.stats_queue(key)
                counters[queue] = decode_counters(queue, value)
        cursors: dict[str, bytes] = {}
        async for rows in engine.scan_prefix(keys.CURSOR):
            cursors.update({keys.cursor_queue(key): value for key, value in rows})
        owner = Owner(
            settings,
            engine,
            objects,
            stamp=stamp,
            ids=ids,
            counters=counters,
            cursors=cursors,
            telemetry=telemetry,
        )
        for name, counter in counters.items():
            known = cursors.get(name, NOTHING) if counter.pending else None
            state = owner.add_queue(name, known)
            # The first sweep finds out how old the oldest finished job is.
            state.sweep_due[JobStatus.DONE] = 0
            if counter.dead:
                state.sweep_due[JobStatus.DEAD] = 0
        for name in settings.queue_configs:
            owner.queue(name)
        clean = tries.clean or new or await engine.get(keys.CLOSED) is not None
        tries.clean = clean
        start = Transaction()
        start.ops += stamping
        # The data of a clean close describes the store as it was then.
        start.delete(keys.CLOSED)
        start.ops.append(await engine.mark(ids))
        await owner.committer.submit(start, durable=False)
        await _take_back_claimed(owner, await _members(owner, settings), died=not clean)
        await owner.committer.submit(Transaction(), durable=True)
        await engine.opened()
        if not labelled:
            await write_label(location)
    except BaseException:
        tries.owners |= engine.owners
        try:
            if owner is not None:
                await owner.committer.close()
        finally:
            await engine.close()
        raise
    return owner


async def find_store(location: StoreLocation) -> Found:
    """Look for a store; only reads, so that the owner of another one is not disturbed.

    Raises:
        IncompatibleStore: There is a database that is not a store of this layout.
        StoreError: The location cannot be reached or read.
    """
    found = await look(location)
    if found.database and not location.in_memory:
        if found.layout is not None:
            _check_layout(found.layout, location)
        else:
            async with looking_once(location) as engine:
                await read_stamp(engine, location)
    return found


async def _is_ready(settings: OpenSettings) -> bool:
    """Refuse a location that cannot be opened; returns whether the store there has its label."""
    found = await find_store(settings.location)
    await refuse_elected(settings)
    if not found.database:
        await check_new_store(settings.location)
    return found.database and found.layout is not None


async def _stamp(
    engine: Engine, location: StoreLocation, clock: Clock, ids: IdGenerator
) -> tuple[bytes, list[keys.Op]]:
    """The store's stamp, and the rows that initialise an empty store."""
    stamp = await read_stamp(engine, location)
    if stamp is not None:
        return stamp, []
    stamp = encode_meta(clock.time_ms(), ids.next())
    return stamp, [(keys.META, stamp)]


async def read_stamp(reads: Reads, location: StoreLocation) -> bytes | None:
    """The stamp of a store that taquba made; None while it is empty, any other is refused."""
    stamp = await reads.get(keys.META)
    if stamp is not None:
        _check_layout(decode_format_version(stamp), location)
        return stamp
    if await reads.read_range(b"", None, 1):
        raise IncompatibleStore(
            f"{location.url} holds a SlateDB database that taquba did not make; "
            "use another location"
        )
    return None


def _check_layout(version: int, location: StoreLocation) -> None:
    if version != keys.FORMAT_VERSION:
        raise IncompatibleStore(
            f"{location.url} has layout {version}, but this version of taquba reads layout "
            f"{keys.FORMAT_VERSION}: use the version that wrote it, or another location",
            layout=version,
        )


async def _members(owner: Owner, settings: OpenSettings) -> dict[str, MemberInfo]:
    """The processes that took part and may live; forgets those that have ended."""
    found: list[MemberInfo] = []
    gone = Transaction()
    async for rows in owner.engine.scan_prefix(keys.MEMBER):
        for key, value in rows:
            try:
                found.append(MemberInfo.load(value))
            except NotTokens:
                gone.delete(key)
    alive = living(found) if settings.producer_socket else {}
    for member in found:
        if member.id not in alive:
            gone.delete(keys.member(member.id))
    if gone.ops:
        await owner.committer.submit(gone, durable=False)
    return alive


async def _take_back_claimed(
    owner: Owner, members: Mapping[str, MemberInfo], *, died: bool
) -> None:
    """Give back every claimed job whose holder is gone with the former owner.

    Where other processes took part, it becomes known only when they connect which these are.
    """
    # Also if no job is claimed: claims that were not flushed left no trace.
    for state in owner.queues.values():
        state.cautious = died
    give_back = partial(_give_back, owner, died)
    adoption = owner.adoption = Adoption(owner, members, give_back)
    async for rows in owner.engine.scan(
        keys.CLAIMED, keys.prefix_end(keys.CLAIMED), batch=_TAKEN_BACK_PER_COMMIT
    ):
        transaction = Transaction()
        changes: list[transitions.Change] = []
        for key, value in rows:
            try:
                job = decode_row(key, value)
            except UnreadableJob as error:
                _log.warning("%s", error)
                continue
            if members:
                adoption.hold_back(job)
                continue
            change = give_back(job)
            transaction.add(change)
            changes.append(change)
        owner.landed_with(transaction, changes)
        await owner.committer.submit(transaction, durable=False)


def _give_back(owner: Owner, died: bool, job: Job) -> transitions.Change:
    """How a job returns that was claimed under the former owner."""
    now = owner.clock.time_ms()
    alone = job.suspicion is not None and job.suspicion.alone
    if died and alone and owner.engine.fenced_living_owner:
        return transitions.interrupt(job, now, "another process opened the store")
    if died:
        policy = owner.queue(job.queue).policy
        why = "the owner process ended"
        return transitions.lose_process(job, now, why, policy, owner.random.random())
    return transitions.interrupt(job, now, "the queue was closed")


def closing_state(owner: Owner) -> Transaction:
    """The data of a clean close: its time, and per queue the key below which no row is pending."""
    transaction = Transaction()
    closing = Closing(owner.clock.time_ms(), owner.engine.openings)
    transaction.put(keys.CLOSED, encode_closing(closing))
    for name, state in owner.queues.items():
        reached = state.window.reached()
        if reached is not None:
            transaction.put(keys.cursor(name), reached)
    return transaction
