"""Enqueueing: new jobs, dedup keys and own ids, alone or as effects of a settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from taquba._core import transitions
from taquba._model import keys
from taquba._model.errors import DuplicateJobId
from taquba._model.options import EnqueueRequest, SettlementEffects
from taquba._model.records import EnqueueResult, Job
from taquba._queue.core import Core
from taquba._queue.offloading import Uploads, large_payloads, upload
from taquba._store.transaction import Transaction

K = TypeVar("K")
T = TypeVar("T")


def enqueue(
    core: Core, requests: Sequence[EnqueueRequest]
) -> Coroutine[Any, Any, list[EnqueueResult]]:
    """Enqueue `requests` in one commit; returns when it is durable."""
    enqueued = _enqueue(core, requests)
    telemetry = core.telemetry
    return enqueued if telemetry is None else telemetry.sending(requests, enqueued)


async def _enqueue(core: Core, requests: Sequence[EnqueueRequest]) -> list[EnqueueResult]:
    transaction = Transaction()
    try:
        results = await _stage(core, transaction, requests, {}, ())
    except DuplicateJobId as error:
        # To who repeats an enqueue this says that it had landed: let that be durable.
        await core.committer.until_durable(keys.index(error.job_id))
        raise
    if transaction.changes:
        await core.committer.submit(transaction, durable=True)
        return results
    # Every dedup key was held, by jobs that must be durable before they are reported.
    transaction.abandon()
    for result in results:
        await core.committer.until_durable(keys.index(result.id))
    return results


async def stage_effects(
    core: Core,
    transaction: Transaction,
    effects: SettlementEffects,
    *,
    at_once: bool = True,
    leaving: str | None = None,
) -> list[EnqueueResult]:
    """Add effects to a transaction; see `_stage`."""
    return await _stage(
        core,
        transaction,
        effects.enqueues,
        # The options object has turned its keys into bytes.
        cast("Mapping[bytes, bytes]", effects.kv_writes),
        cast("Sequence[bytes]", effects.kv_deletes),
        at_once=at_once,
        leaving=leaving,
    )


async def _stage(
    core: Core,
    transaction: Transaction,
    requests: Sequence[EnqueueRequest],
    kv_writes: Mapping[bytes, bytes],
    kv_deletes: Sequence[bytes],
    *,
    at_once: bool = True,
    leaving: str | None = None,
) -> list[EnqueueResult]:
    """Add new jobs and caller-owned entries to a transaction that is about to be submitted.

    Reads the store only for dedup keys and own ids; their locks are held until the transaction
    is applied or has failed. A caller that awaits anything between this and the submission says
    so by `at_once`. A dedup key that the job `leaving` holds counts as free: that job leaves in
    the same transaction.
    """
    uploads = None
    if large := large_payloads(core, requests):
        uploads = await upload(core, requests, large, leaving)
    names = _names_to_lock(core, requests, kv_writes, kv_deletes, at_once)
    held: dict[tuple[str, str], str] = {}
    if names:
        try:
            locks = await core.lock(names)
            try:
                held = await _read_holders(core, requests, leaving)
            except BaseException:
                locks.release()
                raise
        except BaseException:
            if uploads is not None:
                uploads.abandon()
            raise
        transaction.finally_(locks.release)
    for key, value in kv_writes.items():
        transaction.put(keys.user(key), value)
    for key in kv_deletes:
        transaction.delete(keys.user(key))
    return _stage_jobs(core, transaction, requests, held, uploads)


def _names_to_lock(
    core: Core,
    requests: Sequence[EnqueueRequest],
    kv_writes: Mapping[bytes, bytes],
    kv_deletes: Sequence[bytes],
    at_once: bool,
) -> set[object]:
    names: set[object] = set()
    for request in requests:
        if request.dedup_key is not None:
            names.add(("dedup", request.queue, request.dedup_key))
        if request.job_id is not None:
            names.add(("id", request.job_id))
    at_once = at_once and not names
    if at_once and core.locks.idle:
        return names
    # A compare-and-set that has read an entry and a plain write of it take turns. A write that is
    # submitted at once only has to wait; one that awaits something first must hold the others off.
    touched = {*kv_writes, *kv_deletes}
    for request in requests:
        touched.update(_entries(request))
    kv_names = [("kv", key) for key in touched]
    if not at_once or core.locks.any_held(kv_names):
        names.update(kv_names)
    return names


def _entries(request: EnqueueRequest) -> Mapping[bytes, bytes]:
    """The caller-owned entries of a request, whose keys it has turned into bytes."""
    return cast("Mapping[bytes, bytes]", request.kv_writes or {})


async def _read_holders(
    core: Core, requests: Sequence[EnqueueRequest], leaving: str | None
) -> dict[tuple[str, str], str]:
    """Who holds the dedup keys of `requests`; refuses own ids that exist."""
    own_ids: dict[str, None] = {}
    dedup_names: dict[tuple[str, str], None] = {}
    for request in requests:
        if request.job_id is not None:
            if request.job_id in own_ids:
                raise DuplicateJobId(request.job_id)
            own_ids[request.job_id] = None
        if request.dedup_key is not None:
            dedup_names[request.queue, request.dedup_key] = None
    unknown_ids = [job_id for job_id in own_ids if not core.ids.take_reserved(job_id)]

    async def dedup_row(name: tuple[str, str]) -> str | None:
        return await core.dedup_row(*name)

    async def location(job_id: str) -> bytes | None:
        return await core.engine.get(keys.index(job_id))

    if unknown_ids:
        found, rows = await asyncio.gather(
            _all(location, unknown_ids), _all(dedup_row, list(dedup_names))
        )
        for job_id, known in zip(unknown_ids, found, strict=True):
            if known is not None:
                raise DuplicateJobId(job_id)
    else:
        rows = await _all(dedup_row, list(dedup_names))
    return {
        name: holder
        for name, row in zip(dedup_names, rows, strict=True)
        if (holder := core.dedup_holder(row, leaving)) is not None
    }


async def _all(read: Callable[[K], Coroutine[Any, Any, T]], names: Sequence[K]) -> list[T]:
    """Reads at the same time; most often there is one, which needs no task of its own."""
    if len(names) == 1:
        return [await read(names[0])]
    return await asyncio.gather(*(read(name) for name in names))


def _stage_jobs(
    core: Core,
    transaction: Transaction,
    requests: Sequence[EnqueueRequest],
    held: dict[tuple[str, str], str],
    uploads: Uploads | None,
) -> list[EnqueueResult]:
    if uploads is not None:
        # Nothing was uploaded for these, so they are what the call found when it began.
        held |= uploads.held
    now = core.clock.time_ms()
    headers_of = None if core.telemetry is None else core.telemetry.carrier()
    results: list[EnqueueResult] = []
    changes: list[transitions.Change] = []
    for position, request in enumerate(requests):
        if request.dedup_key is not None:
            name = (request.queue, request.dedup_key)
            holder = held.get(name)
            if holder is not None:
                results.append(EnqueueResult(holder, False))
                continue
        headers = request.headers if headers_of is None else headers_of(request.headers)
        job = _new_job(core, request, now, headers)
        if uploads is not None:
            job = uploads.attach(position, job, transaction)
        if job.dedup_key is not None:
            held[job.queue, job.dedup_key] = job.id
        change = transitions.enqueue(job)
        transaction.add(change)
        changes.append(change)
        if request.kv_writes:
            for key, value in _entries(request).items():
                transaction.put(keys.user(key), value)
        results.append(EnqueueResult(job.id, True))
    if changes:
        core.landed_with(transaction, changes)
    if uploads is not None:
        uploads.abandon()
    return results


def _new_job(
    core: Core, request: EnqueueRequest, now: int, headers: Mapping[str, str] | None
) -> Job:
    policy = core.queue(request.queue).policy
    # By position: with names this would take twice as long, for every job there is.
    return Job(
        core.ids.next() if request.job_id is None else request.job_id,
        request.queue,
        request.payload,
        dict(headers) if headers else None,
        policy.priority if request.priority is None else request.priority,
        now,
        policy.max_attempts if request.max_attempts is None else request.max_attempts,
        0,
        request.run_at_ms(now),
        request.dedup_key,
        request.dedup_key is not None,
    )
