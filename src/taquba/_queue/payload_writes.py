"""Large payloads on their way into the store, and the orphans that a crash leaves there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from taquba._model import keys
from taquba._model.options import EnqueueRequest
from taquba._model.own_tasks import only_it_was_cancelled, was_cancelled
from taquba._model.records import Job
from taquba._queue.in_slices import slices
from taquba._queue.listings import payload_refs
from taquba._queue.owner import Owner
from taquba._store.transaction import Transaction

ORPHAN_AGE_MS: Final = 3600 * 1000
"""How old an object to which no record refers must be before it is removed."""


class Uploads:
    """Payload objects written for the requests of a transaction that is not made yet."""

    def __init__(self, owner: Owner, requests: Sequence[EnqueueRequest]) -> None:
        self._owner = owner
        # The name of an object holds its job's id. All jobs get their ids now, so that those with a
        # small payload do not come last.
        self._ids = [request.job_id or owner.ids.next() for request in requests]
        self._refs: dict[int, str] = {}
        """By position of the request."""
        self.held: dict[tuple[str, str], str] = {}
        """Holders of dedup keys, for whose requests nothing was uploaded."""

    async def add(self, position: int, request: EnqueueRequest, leaving: str | None) -> None:
        owner = self._owner
        if request.dedup_key is not None:
            row = await owner.dedup_row(request.queue, request.dedup_key)
            holder = owner.dedup_holder(row, leaving)
            if holder is not None:
                self.held[request.queue, request.dedup_key] = holder
                return
        self._refs[position] = await owner.payloads.upload(self._ids[position], request.payload)

    def attach(self, position: int, job: Job, transaction: Transaction) -> Job:
        """The job as it is staged, with its payload's reference if that is an object."""
        job_id = self._ids[position]
        if position not in self._refs:
            return job._replace(id=job_id)
        owner = self._owner
        ref = self._refs.pop(position)
        transaction.finally_(lambda: owner.payloads.release(ref))

        def failed() -> None:
            # After a failure of the store, a write that was under way may still be applied.
            if owner.committer.failure is None:
                owner.payloads.discard([ref])

        transaction.on_failed.append(failed)
        return job._replace(id=job_id, payload=b"", payload_ref=ref)

    def abandon(self) -> None:
        """No record will refer to the remaining objects."""
        for ref in self._refs.values():
            self._owner.payloads.release(ref)
        self._owner.payloads.discard(self._refs.values())


def large_payloads(owner: Owner, requests: Sequence[EnqueueRequest]) -> list[int]:
    """Positions of the requests whose payload becomes a separate object."""
    limit = owner.payloads.inline_limit
    return [position for position, request in enumerate(requests) if len(request.payload) > limit]


async def upload(
    owner: Owner, requests: Sequence[EnqueueRequest], large: Sequence[int], leaving: str | None
) -> Uploads:
    """Write the payloads at the positions `large` of `requests`, several at the same time.

    A request whose dedup key is held makes no new job, so its payload is not uploaded: the holder
    existed during the call. A key that the job `leaving` holds counts as free.
    """
    uploads = Uploads(owner, requests)
    for some in slices(large):
        tasks = [
            asyncio.create_task(uploads.add(position, requests[position], leaving))
            for position in some
        ]
        try:
            await asyncio.gather(*tasks)
        except BaseException as error:
            alone = [task for task in tasks if only_it_was_cancelled(task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            uploads.abandon()
            if isinstance(error, asyncio.CancelledError) and alone:
                raise was_cancelled(alone[0]) from None
            raise
    return uploads


async def sweep_orphans(owner: Owner) -> int:
    """Remove payload objects to which no record refers; returns how many.

    A crash leaves them: between an upload and its commit, or a removal and that of its object.
    """
    removed = 0
    before = owner.clock.time_ms() - ORPHAN_AGE_MS
    async for candidates in owner.payloads.orphan_candidates(before):
        current = await payload_refs(owner.engine, [job_id for job_id, _ in candidates])
        orphans = [ref for (_, ref), now in zip(candidates, current, strict=True) if ref != now]
        if orphans:
            # This proves that the removals just seen are durable, and that this is still the owner:
            # another owner may have uploaded objects that are not in this view of the store.
            proof = Transaction()
            proof.put(keys.META, owner.stamp)
            await owner.committer.submit(proof, durable=True)
            owner.payloads.discard(orphans)
            removed += len(orphans)
    await owner.payloads.remove_unfinished(ORPHAN_AGE_MS)
    return removed
