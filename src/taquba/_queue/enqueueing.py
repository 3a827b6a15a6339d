"""Enqueueing: new jobs, dedup keys and custom ids, alone or as effects of a settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from taquba._model import keys
from taquba._model.batch import Batch
from taquba._model.errors import DuplicateJobId, EntryChanged
from taquba._model.options import EnqueueRequest, SettlementEffects
from taquba._model.records import EnqueueResult, Job
from taquba._queue import key_values
from taquba._queue.in_slices import in_slices
from taquba._queue.owner import Owner
from taquba._queue.payload_writes import Uploads, large_payloads, upload
from taquba._rules import marks, transitions
from taquba._store.transaction import Transaction

_FEW: Final = 16
"""Up to this number, ids are looked up one by one."""

K = TypeVar("K")
T = TypeVar("T")


def enqueue(
    owner: Owner,
    requests: Sequence[EnqueueRequest],
    expected: Mapping[bytes, bytes | None] | None = None,
) -> Coroutine[Any, Any, list[EnqueueResult]]:
    """Enqueue `requests` in one commit, if entries are as `expected`; returns when it is durable.

    Raises `EntryChanged` where they are not.
    """
    enqueued = _enqueue(owner, requests, expected)
    telemetry = owner.telemetry
    return enqueued if telemetry is None else telemetry.sending(requests, enqueued)


async def _enqueue(
    owner: Owner,
    requests: Sequence[EnqueueRequest],
    expected: Mapping[bytes, bytes | None] | None,
) -> list[EnqueueResult]:
    transaction = Transaction()
    if not expected and _all_plain(owner, requests):
        results = _stage_jobs(owner, transaction, requests, _NOTHING_FOUND, None, None)
        await owner.committer.submit(transaction, durable=True)
        return results
    try:
        results = await _stage(owner, transaction, requests, {}, (), expected=expected)
    except DuplicateJobId as error:
        # To a caller that repeats an enqueue this means that the first one succeeded: make that
        # durable.
        await owner.committer.until_durable(keys.index(error.job_id))
        raise
    if transaction.changes:
        await owner.committer.submit(transaction, durable=True)
        return results
    # Every dedup key was held, by jobs that must be durable before they are reported.
    transaction.abandon()
    for result in results:
        await owner.committer.until_durable(keys.index(result.id))
    return results


def _all_plain(owner: Owner, requests: Sequence[EnqueueRequest]) -> bool:
    """Whether jobs can be staged as they are: nothing to look up, to lock or to upload.

    Most jobs are plain, and `_stage` would find that out only in three rounds.
    """
    limit = owner.payloads.inline_limit
    for request in requests:
        if (
            request.job_id is not None
            or request.dedup_key is not None
            or request.kv_writes is not None
            or len(request.payload) > limit
        ):
            return False
    return True


async def stage_effects(
    owner: Owner,
    transaction: Transaction,
    effects: SettlementEffects,
    *,
    at_once: bool = True,
    leaving: str | None = None,
) -> list[EnqueueResult]:
    """Add effects to a transaction; see `_stage`."""
    return await _stage(
        owner,
        transaction,
        effects.enqueues,
        # The options object has turned its keys into bytes.
        cast("Mapping[bytes, bytes]", effects.kv_writes),
        cast("Sequence[bytes]", effects.kv_deletes),
        expected=cast("Mapping[bytes, bytes | None] | None", effects.kv_expected),
        at_once=at_once,
        leaving=leaving,
    )


async def stage_batch(owner: Owner, transaction: Transaction, batch: Batch) -> list[EnqueueResult]:
    """Add the jobs of a batch to a transaction; see `_stage`.

    A request whose id is that of a job, or has a mark, makes no job: a batch may come again after
    its mark is gone, or lie about its ids. The marks of the batch are added, too.
    """
    return await _stage(owner, transaction, batch.requests, {}, (), batch=batch)


async def _stage(
    owner: Owner,
    transaction: Transaction,
    requests: Sequence[EnqueueRequest],
    kv_writes: Mapping[bytes, bytes],
    kv_deletes: Sequence[bytes],
    *,
    expected: Mapping[bytes, bytes | None] | None = None,
    at_once: bool = True,
    leaving: str | None = None,
    batch: Batch | None = None,
) -> list[EnqueueResult]:
    """Add new jobs and caller-owned entries to a transaction that is about to be submitted.

    It reads the store only for dedup keys, custom ids and what is `expected` of entries; their
    locks are held until the transaction is applied or has failed. `at_once` says whether the caller
    submits without awaiting anything in between. A dedup key that the job `leaving` holds counts as
    free: that job leaves in the same transaction. Any id in a `batch` may already exist.
    """
    own_ids = _own_ids(requests) if batch is None else batch.ids()
    uploads = None
    if large := large_payloads(owner, requests):
        uploads = await upload(owner, requests, large, leaving)
    names = _names_to_lock(
        owner, requests, own_ids, kv_writes, kv_deletes, at_once and not expected
    )
    names.update(("kv", key) for key in expected or ())
    found = _NOTHING_FOUND
    if names:
        try:
            locks = await owner.lock(names)
            try:
                if expected:
                    await key_values.check(owner, expected)
                found = await _find(owner, requests, own_ids, leaving, batch)
            except EntryChanged as changed:
                locks.release()
                # Whoever reads it now decides by it.
                await key_values.until_durable(owner, changed.key)
                raise
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
    if batch is not None:
        transaction.ops += marks.made_for(batch, found.marked, owner.clock.time_ms())
    return _stage_jobs(owner, transaction, requests, found, uploads, batch)


def _own_ids(requests: Sequence[EnqueueRequest]) -> Collection[str]:
    """The ids that callers chose, in their order; refuses an id that occurs twice."""
    own_ids: dict[str, None] = {}
    for request in requests:
        if request.job_id is not None:
            if request.job_id in own_ids:
                raise DuplicateJobId(request.job_id)
            own_ids[request.job_id] = None
    return own_ids


def _names_to_lock(
    owner: Owner,
    requests: Sequence[EnqueueRequest],
    own_ids: Collection[str],
    kv_writes: Mapping[bytes, bytes],
    kv_deletes: Sequence[bytes],
    at_once: bool,
) -> set[object]:
    names: set[object] = {("id", job_id) for job_id in own_ids}
    for request in requests:
        if request.dedup_key is not None:
            names.add(("dedup", request.queue, request.dedup_key))
    at_once = at_once and not names
    if at_once and owner.locks.idle:
        return names
    # A compare-and-set that has read an entry and a plain write of it take turns. A write that is
    # submitted at once need only wait; one that awaits something first must lock the others out.
    touched = {*kv_writes, *kv_deletes}
    for request in requests:
        touched.update(_entries(request))
    kv_names = [("kv", key) for key in touched]
    if not at_once or owner.locks.any_held(kv_names):
        names.update(kv_names)
    return names


def _entries(request: EnqueueRequest) -> Mapping[bytes, bytes]:
    """The caller-owned entries of a request, whose keys it has turned into bytes."""
    return cast("Mapping[bytes, bytes]", request.kv_writes or {})


class _Found(NamedTuple):
    """The state of the store that concerns new jobs.

    Attributes:
        jobs: Ids that exist.
        marked: Custom ids that came through the inbox before.
        held: The holders of dedup keys, by queue and key.
    """

    jobs: Collection[str]
    marked: Collection[str]
    held: Mapping[tuple[str, str], str]


_NOTHING_FOUND: Final = _Found((), (), {})


async def _find(
    owner: Owner,
    requests: Sequence[EnqueueRequest],
    own_ids: Collection[str],
    leaving: str | None,
    batch: Batch | None,
) -> _Found:
    """Look up custom ids and dedup keys; refuses custom ids that exist, except in a batch."""
    dedup_names = dict.fromkeys(
        (request.queue, request.dedup_key) for request in requests if request.dedup_key is not None
    )
    if batch is None:
        own_ids = [job_id for job_id in own_ids if not owner.ids.take_reserved(job_id)]
        marked: Collection[str] = ()
    else:
        marked = await _those_with(owner, keys.job_mark, list(batch.own_ids))
    if own_ids and dedup_names:
        jobs, held = await asyncio.gather(
            _jobs_among(owner, own_ids), _read_holders(owner, list(dedup_names), leaving)
        )
    else:
        jobs = await _jobs_among(owner, own_ids) if own_ids else ()
        held = await _read_holders(owner, list(dedup_names), leaving) if dedup_names else {}
    if jobs and batch is None:
        raise DuplicateJobId(next(job_id for job_id in own_ids if job_id in jobs))
    return _Found(jobs, marked, held)


async def _jobs_among(owner: Owner, job_ids: Collection[str]) -> Collection[str]:
    """The ids among `ids` that are those of jobs, in any state."""
    if len(job_ids) > _FEW:
        # Most batches have ids that were drawn one after the other: few rows lie between them.
        limit = len(job_ids) + _FEW
        end = keys.index(max(job_ids)) + b"\0"
        rows = await owner.engine.read_range(keys.index(min(job_ids)), end, limit)
        if len(rows) < limit:
            there = {key for key, _ in rows}
            return {job_id for job_id in job_ids if keys.index(job_id) in there}
    return await _those_with(owner, keys.index, list(job_ids))


async def _those_with(
    owner: Owner, key_of: Callable[[str], bytes], job_ids: Sequence[str]
) -> Collection[str]:
    """The ids that have a row."""
    rows = await in_slices(owner.engine.get, [key_of(job_id) for job_id in job_ids])
    return {job_id for job_id, row in zip(job_ids, rows, strict=True) if row is not None}


async def _read_holders(
    owner: Owner, names: Sequence[tuple[str, str]], leaving: str | None
) -> dict[tuple[str, str], str]:
    """The holders of dedup keys."""

    async def dedup_row(name: tuple[str, str]) -> str | None:
        return await owner.dedup_row(*name)

    rows = await in_slices(dedup_row, names)
    return {
        name: holder
        for name, row in zip(names, rows, strict=True)
        if (holder := owner.dedup_holder(row, leaving)) is not None
    }


def _stage_jobs(
    owner: Owner,
    transaction: Transaction,
    requests: Sequence[EnqueueRequest],
    found: _Found,
    uploads: Uploads | None,
    batch: Batch | None,
) -> list[EnqueueResult]:
    known = {*found.jobs, *found.marked}
    held = dict(found.held)
    if uploads is not None:
        # Nothing was uploaded for these, so use the state that the call found when it began.
        held |= uploads.held
    now = owner.clock.time_ms()
    # A producer's clock may be ahead of this one.
    asked_at = now if batch is None else min(now, batch.sent_at)
    headers_of = None if owner.telemetry is None else owner.telemetry.carrier()
    results: list[EnqueueResult] = []
    changes: list[transitions.Change] = []
    for position, request in enumerate(requests):
        if request.job_id in known:
            results.append(EnqueueResult(request.job_id, False))
            continue
        if request.dedup_key is not None:
            name = (request.queue, request.dedup_key)
            holder = held.get(name)
            if holder is not None:
                results.append(EnqueueResult(holder, False))
                continue
        headers = request.headers if headers_of is None else headers_of(request.headers)
        job = _new_job(owner, request, now, asked_at, headers)
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
        if batch is not None and job.id in batch.own_ids:
            # Two calls with the same id may be in one batch.
            known.add(job.id)
        results.append(EnqueueResult(job.id, True))
    if changes:
        owner.landed_with(transaction, changes)
    if uploads is not None:
        uploads.abandon()
    return results


def _new_job(
    owner: Owner,
    request: EnqueueRequest,
    now: int,
    asked_at: int,
    headers: Mapping[str, str] | None,
) -> Job:
    policy = owner.queue(request.queue).policy
    # By position: with names this would take twice as long, for every job.
    return Job(
        owner.ids.next() if request.job_id is None else request.job_id,
        request.queue,
        request.payload,
        dict(headers) if headers else None,
        policy.priority if request.priority is None else request.priority,
        asked_at,
        policy.max_attempts if request.max_attempts is None else request.max_attempts,
        0,
        request.run_at_ms(now),
        request.dedup_key,
        request.dedup_key is not None,
    )
